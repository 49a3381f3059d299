/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The NBD handshake as a machine over bytes: each option's answers, each way to be malformed, every
 * cut, and random bytes.
 */
#include "blockmig/worker/nbd_handshake.h"

#include <check.h>
#include <stdbool.h>
#include <stdlib.h>

static const struct bmig_nbds_export EXPORT = {
    .name = "disk",
    .description = "a disk",
    .size_bytes = UINT64_C(0x123456789abc),
    .flags = NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH,
    .block_min_bytes = 1,
    .block_preferred_bytes = 4096,
    .block_max_bytes = 32 << 20,
};

static struct bmig_nbds_handshake hs;
static uint8_t message[1 << 16];
static size_t message_bytes;
static uint8_t answer[1 << 16];
static size_t answer_bytes;

/* ---- making what a client says ---- */

static void add(const void *data, size_t length)
{
    memcpy(message + message_bytes, data, length);
    message_bytes += length;
}

static void add_u16(uint16_t value)
{
    message_bytes = (size_t)(nbd_put_u16(message + message_bytes, value) - message);
}

static void add_u32(uint32_t value)
{
    message_bytes = (size_t)(nbd_put_u32(message + message_bytes, value) - message);
}

static void add_u64(uint64_t value)
{
    message_bytes = (size_t)(nbd_put_u64(message + message_bytes, value) - message);
}

static void add_string(const char *text)
{
    add_u32((uint32_t)strlen(text));
    add(text, strlen(text));
}

static void begin_option(uint32_t option)
{
    message_bytes = 0;
    add_u64(NBD_OPTION_MAGIC);
    add_u32(option);
    add_u32(0);
}

/* ---- feeding ---- */

static void take_answer(void)
{
    memcpy(answer + answer_bytes, hs.out, hs.out_bytes);
    answer_bytes += hs.out_bytes;
    hs.out_bytes = 0;
}

/* Feeds message whole, as a connection would; what comes back is in answer. Returns the bytes
 * consumed. */
static size_t feed(void)
{
    size_t used = 0, now;

    answer_bytes = 0;
    do {
        now = bmig_nbds_handshake_input(&hs, message + used, message_bytes - used);
        used += now;
        take_answer();
    } while (now && used < message_bytes);
    return used;
}

static void send_option(void)
{
    nbd_put_u32(message + 12, (uint32_t)(message_bytes - NBD_OPTION_HEADER_BYTES));
    ck_assert_uint_eq(feed(), message_bytes);
}

static void simple_option(uint32_t option)
{
    begin_option(option);
    send_option();
}

static void info_option(uint32_t option, const char *name, unsigned count, const uint16_t *kinds)
{
    begin_option(option);
    add_string(name);
    add_u16((uint16_t)count);
    for (unsigned i = 0; i < count; i++)
        add_u16(kinds[i]);
    send_option();
}

static void context_option(uint32_t option, const char *name, unsigned count,
                           const char *const *queries)
{
    begin_option(option);
    add_string(name);
    add_u32(count);
    for (unsigned i = 0; i < count; i++)
        add_string(queries[i]);
    send_option();
}

/* ---- reading answers ---- */

struct reply {
    uint32_t option, type, length;
    const uint8_t *data;
};

static size_t answer_read;

static struct reply next_reply(void)
{
    const uint8_t *at = answer + answer_read;
    struct reply reply;

    ck_assert_uint_ge(answer_bytes - answer_read, NBD_OPTION_REPLY_HEADER_BYTES);
    ck_assert_uint_eq(nbd_get_u64(at), NBD_OPTION_REPLY_MAGIC);
    reply.option = nbd_get_u32(at + 8);
    reply.type = nbd_get_u32(at + 12);
    reply.length = nbd_get_u32(at + 16);
    reply.data = at + NBD_OPTION_REPLY_HEADER_BYTES;
    answer_read += NBD_OPTION_REPLY_HEADER_BYTES + reply.length;
    ck_assert_uint_le(answer_read, answer_bytes);
    return reply;
}

static struct reply first_reply(void)
{
    answer_read = 0;
    return next_reply();
}

/* The whole answer is one reply of this type. */
static void expect_only(uint32_t option, uint32_t type)
{
    struct reply reply = first_reply();

    ck_assert_uint_eq(reply.option, option);
    ck_assert_uint_eq(reply.type, type);
    ck_assert_uint_eq(answer_read, answer_bytes);
}

static void start(uint32_t flags)
{
    bmig_nbds_handshake_init(&hs, &EXPORT);
    answer_bytes = 0;
    take_answer();
    message_bytes = 0;
    add_u32(flags);
    ck_assert_uint_eq(feed(), 4);
}

static void setup(void)
{
    start(NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
}

/* ---- tests ---- */

START_TEST(greeting_offers_fixed_newstyle_without_zeroes)
{
    bmig_nbds_handshake_init(&hs, &EXPORT);
    ck_assert_uint_eq(hs.out_bytes, 18);
    ck_assert_mem_eq(hs.out, "NBDMAGICIHAVEOPT\0\3", 18);
}
END_TEST

START_TEST(unknown_client_flag_ends_the_session)
{
    for (int bit = 2; bit < 32; bit++) {
        start(1u << bit | NBD_FLAG_FIXED_NEWSTYLE);
        ck_assert_int_eq(hs.phase, BMIG_NBDS_GOODBYE);
        ck_assert_uint_eq(answer_bytes, 0);
    }
}
END_TEST

START_TEST(export_name_answers_with_size_flags_and_zeroes_unless_declined)
{
    for (int no_zeroes = 0; no_zeroes < 2; no_zeroes++) {
        start(no_zeroes ? NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES : NBD_FLAG_FIXED_NEWSTYLE);
        begin_option(NBD_OPT_EXPORT_NAME);
        add("disk", 4);
        send_option();
        ck_assert_int_eq(hs.phase, BMIG_NBDS_READY);
        ck_assert_uint_eq(answer_bytes, no_zeroes ? 10 : 134);
        ck_assert_uint_eq(nbd_get_u64(answer), EXPORT.size_bytes);
        ck_assert_uint_eq(nbd_get_u16(answer + 8), EXPORT.flags);
        for (size_t i = 10; i < answer_bytes; i++)
            ck_assert_uint_eq(answer[i], 0);
    }
}
END_TEST

START_TEST(client_without_fixed_newstyle_may_name_an_export)
{
    start(0);
    simple_option(NBD_OPT_EXPORT_NAME);
    ck_assert_int_eq(hs.phase, BMIG_NBDS_READY);
    ck_assert_uint_eq(answer_bytes, 134);
}
END_TEST

START_TEST(export_name_of_another_ends_the_session_without_a_word)
{
    begin_option(NBD_OPT_EXPORT_NAME);
    add("disl", 4);
    send_option();
    ck_assert_int_eq(hs.phase, BMIG_NBDS_GOODBYE);
    ck_assert_uint_eq(answer_bytes, 0);
}
END_TEST

START_TEST(abort_is_acknowledged_and_ends_the_session)
{
    simple_option(NBD_OPT_ABORT);
    expect_only(NBD_OPT_ABORT, NBD_REP_ACK);
    ck_assert_int_eq(hs.phase, BMIG_NBDS_GOODBYE);
}
END_TEST

START_TEST(list_names_the_one_export)
{
    struct reply reply;

    simple_option(NBD_OPT_LIST);
    reply = first_reply();
    ck_assert_uint_eq(reply.type, NBD_REP_SERVER);
    ck_assert_uint_eq(reply.length, 8);
    ck_assert_mem_eq(reply.data, "\0\0\0\4disk", 8);
    ck_assert_uint_eq(next_reply().type, NBD_REP_ACK);
    ck_assert_uint_eq(answer_read, answer_bytes);

    begin_option(NBD_OPT_LIST);
    add("x", 1);
    send_option();
    expect_only(NBD_OPT_LIST, NBD_REP_ERR_INVALID);
}
END_TEST

START_TEST(info_gives_export_always_and_the_rest_when_asked)
{
    static const uint16_t all[] = {NBD_INFO_BLOCK_SIZE, 77, NBD_INFO_NAME, NBD_INFO_NAME,
                                   NBD_INFO_DESCRIPTION};
    struct reply reply;

    info_option(NBD_OPT_INFO, "", 0, NULL);
    reply = first_reply();
    ck_assert_uint_eq(reply.type, NBD_REP_INFO);
    ck_assert_uint_eq(reply.length, 12);
    ck_assert_uint_eq(nbd_get_u16(reply.data), NBD_INFO_EXPORT);
    ck_assert_uint_eq(nbd_get_u64(reply.data + 2), EXPORT.size_bytes);
    ck_assert_uint_eq(nbd_get_u16(reply.data + 10), EXPORT.flags);
    ck_assert_uint_eq(next_reply().type, NBD_REP_ACK);
    ck_assert_uint_eq(answer_read, answer_bytes);
    ck_assert_int_eq(hs.phase, BMIG_NBDS_OPTION);

    info_option(NBD_OPT_GO, "disk", 5, all);
    ck_assert_uint_eq(nbd_get_u16(first_reply().data), NBD_INFO_EXPORT);
    reply = next_reply();
    ck_assert_mem_eq(reply.data, "\0\1disk", reply.length);
    reply = next_reply();
    ck_assert_mem_eq(reply.data, "\0\2a disk", reply.length);
    reply = next_reply();
    ck_assert_uint_eq(reply.length, 14);
    ck_assert_mem_eq(reply.data, "\0\3\0\0\0\1\0\0\x10\0\2\0\0\0", 14);
    ck_assert_uint_eq(next_reply().type, NBD_REP_ACK);
    ck_assert_uint_eq(answer_read, answer_bytes);
    ck_assert_int_eq(hs.phase, BMIG_NBDS_READY);
}
END_TEST

START_TEST(go_to_another_export_is_refused_and_haggling_goes_on)
{
    info_option(NBD_OPT_GO, "dis", 0, NULL);
    expect_only(NBD_OPT_GO, NBD_REP_ERR_UNKNOWN);
    info_option(NBD_OPT_GO, "", 0, NULL);
    ck_assert_int_eq(hs.phase, BMIG_NBDS_READY);
}
END_TEST

START_TEST(info_whose_lengths_do_not_add_up_is_invalid)
{
    static const struct {
        const char *data;
        size_t length;
    } bad[] = {
        {"", 0},
        {"\0\0\0\0\0", 5},
        {"\0\0\0\1\0\0", 6},         /* the name would end in the count */
        {"\xff\xff\xff\xff\0\0", 6}, /* ... and this one wrap around */
        {"\xff\xff\xff\xfa\0\0", 6},
        {"\0\0\0\0\0\1", 6},       /* one kind announced, none there */
        {"\0\0\0\0\0\1\0\1\0", 9}, /* half a kind too many */
        {"\0\0\0\4disk\xff\xff\0\1", 12},
    };

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        begin_option(i % 2 ? NBD_OPT_INFO : NBD_OPT_GO);
        add(bad[i].data, bad[i].length);
        send_option();
        expect_only(i % 2 ? NBD_OPT_INFO : NBD_OPT_GO, NBD_REP_ERR_INVALID);
        ck_assert_int_eq(hs.phase, BMIG_NBDS_OPTION);
    }
}
END_TEST

START_TEST(names_up_to_4096_bytes_are_compared_and_longer_ones_refused)
{
    static char name[4098];
    struct bmig_nbds_export export = EXPORT;

    memset(name, 'n', 4096);
    export.name = name;
    bmig_nbds_handshake_init(&hs, &export);
    hs.out_bytes = 0;
    hs.phase = BMIG_NBDS_OPTION;
    info_option(NBD_OPT_INFO, name, 1, (uint16_t[]){NBD_INFO_NAME});
    first_reply();
    ck_assert_uint_eq(next_reply().length, 4098);
    simple_option(NBD_OPT_LIST);
    ck_assert_uint_eq(first_reply().length, 4100);

    name[4096] = 'n';
    info_option(NBD_OPT_GO, name, 0, NULL);
    expect_only(NBD_OPT_GO, NBD_REP_ERR_TOO_BIG);
    begin_option(NBD_OPT_EXPORT_NAME);
    add(name, 4097);
    nbd_put_u32(message + 12, 4097);
    feed();
    ck_assert_int_eq(hs.phase, BMIG_NBDS_GOODBYE);
}
END_TEST

START_TEST(starttls_and_unknown_options_are_unsupported_and_their_data_skipped)
{
    static const uint32_t options[] = {4, NBD_OPT_STARTTLS, 11, 12, 0, 0x80000001, UINT32_MAX};

    for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++) {
        for (size_t length = 0; length < 60000; length = length * 3 + 1) {
            begin_option(options[i]);
            message_bytes += length;
            send_option();
            expect_only(options[i], NBD_REP_ERR_UNSUP);
            ck_assert_int_eq(hs.phase, BMIG_NBDS_OPTION);
        }
    }
}
END_TEST

START_TEST(known_option_with_too_much_data_is_skipped_and_too_big)
{
    begin_option(NBD_OPT_GO);
    message_bytes += BMIG_NBDS_OPTION_MAX_BYTES + 1;
    send_option();
    expect_only(NBD_OPT_GO, NBD_REP_ERR_TOO_BIG);
    simple_option(NBD_OPT_STRUCTURED_REPLY);
    expect_only(NBD_OPT_STRUCTURED_REPLY, NBD_REP_ACK);
}
END_TEST

START_TEST(option_of_absurd_length_or_wrong_magic_ends_the_session)
{
    begin_option(99);
    nbd_put_u32(message + 12, BMIG_NBDS_OPTION_SKIP_BYTES + 1);
    feed();
    ck_assert_int_eq(hs.phase, BMIG_NBDS_GOODBYE);
    setup();
    begin_option(NBD_OPT_LIST);
    message[0] ^= 1;
    feed();
    ck_assert_int_eq(hs.phase, BMIG_NBDS_GOODBYE);
    ck_assert_uint_eq(answer_bytes, 0);
}
END_TEST

START_TEST(structured_replies_are_negotiated_once_and_bring_df)
{
    begin_option(NBD_OPT_STRUCTURED_REPLY);
    add("x", 1);
    send_option();
    expect_only(NBD_OPT_STRUCTURED_REPLY, NBD_REP_ERR_INVALID);
    ck_assert(!hs.structured);
    simple_option(NBD_OPT_STRUCTURED_REPLY);
    expect_only(NBD_OPT_STRUCTURED_REPLY, NBD_REP_ACK);
    ck_assert(hs.structured);
    simple_option(NBD_OPT_STRUCTURED_REPLY);
    expect_only(NBD_OPT_STRUCTURED_REPLY, NBD_REP_ERR_INVALID);
    info_option(NBD_OPT_INFO, "", 0, NULL);
    ck_assert_uint_eq(nbd_get_u16(first_reply().data + 10), EXPORT.flags | NBD_FLAG_SEND_DF);
}
END_TEST

START_TEST(contexts_need_structured_replies)
{
    context_option(NBD_OPT_LIST_META_CONTEXT, "", 0, NULL);
    expect_only(NBD_OPT_LIST_META_CONTEXT, NBD_REP_ERR_INVALID);
    context_option(NBD_OPT_SET_META_CONTEXT, "", 1, (const char *[]){"base:allocation"});
    expect_only(NBD_OPT_SET_META_CONTEXT, NBD_REP_ERR_INVALID);
    ck_assert(!hs.allocation);
}
END_TEST

/* Whether the answer lists the context before its ACK; checks the rest of it. */
static bool lists_context(uint32_t option, uint32_t id)
{
    struct reply reply = first_reply();
    bool listed = reply.type == NBD_REP_META_CONTEXT;

    ck_assert_uint_eq(reply.option, option);
    if (listed) {
        ck_assert_uint_eq(reply.length, 4 + 15);
        ck_assert_uint_eq(nbd_get_u32(reply.data), id);
        ck_assert_mem_eq(reply.data + 4, "base:allocation", 15);
        reply = next_reply();
    }
    ck_assert_uint_eq(reply.type, NBD_REP_ACK);
    ck_assert_uint_eq(answer_read, answer_bytes);
    return listed;
}

START_TEST(contexts_are_listed_by_wildcard_and_set_by_name)
{
    static const struct {
        unsigned count;
        const char *queries[3];
        bool listed, set;
    } cases[] = {
        {0, {NULL}, true, false},
        {1, {""}, true, false},
        {1, {"base:"}, true, false},
        {1, {"base:allocation"}, true, true},
        {3, {"qemu:dirty-bitmap:b", "base:allocation", "base:allocation"}, true, true},
        {2, {"x-test:a", "base:allocations"}, false, false},
        {1, {"base:allocatio"}, false, false},
    };

    simple_option(NBD_OPT_STRUCTURED_REPLY);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        context_option(NBD_OPT_LIST_META_CONTEXT, "disk", cases[i].count, cases[i].queries);
        ck_assert(lists_context(NBD_OPT_LIST_META_CONTEXT, 0) == cases[i].listed);
        context_option(NBD_OPT_SET_META_CONTEXT, "", cases[i].count, cases[i].queries);
        ck_assert(lists_context(NBD_OPT_SET_META_CONTEXT, BMIG_NBDS_CONTEXT_ID) == cases[i].set);
        ck_assert(hs.allocation == cases[i].set);
    }
}
END_TEST

START_TEST(malformed_context_queries_are_invalid_and_deselect)
{
    static const struct {
        const char *data;
        size_t length;
    } bad[] = {
        {"", 0},
        {"\0\0\0\0\0\0\0", 7},
        {"\0\0\0\1\0\0\0\0", 8},
        {"\xff\xff\xff\xff\0\0\0\0", 8},
        {"\0\0\0\0\0\0\0\1", 8},           /* a query is missing */
        {"\0\0\0\0\0\0\0\1\0\0\0\2a", 13}, /* ... or cut */
        {"\0\0\0\0\0\0\0\1\xff\xff\xff\xff:", 13},
        {"\0\0\0\0\0\0\0\0a", 9},             /* something behind the last */
        {"\0\0\0\0\0\0\0\1\0\0\0\4base", 16}, /* no namespace */
        {"\0\0\0\0\xff\xff\xff\xff\0\0\0\0", 12},
    };

    simple_option(NBD_OPT_STRUCTURED_REPLY);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        context_option(NBD_OPT_SET_META_CONTEXT, "", 1, (const char *[]){"base:allocation"});
        ck_assert(hs.allocation);
        begin_option(NBD_OPT_SET_META_CONTEXT);
        add(bad[i].data, bad[i].length);
        send_option();
        expect_only(NBD_OPT_SET_META_CONTEXT, NBD_REP_ERR_INVALID);
        ck_assert(!hs.allocation);
    }
    context_option(NBD_OPT_SET_META_CONTEXT, "other", 0, NULL);
    expect_only(NBD_OPT_SET_META_CONTEXT, NBD_REP_ERR_UNKNOWN);
}
END_TEST

/* A handshake with everything in it, in message. */
static void whole_handshake(void)
{
    static uint8_t all[4096];
    size_t length = 0;
    static const uint32_t options[] = {99, NBD_OPT_STRUCTURED_REPLY, NBD_OPT_LIST,
                                       NBD_OPT_SET_META_CONTEXT, NBD_OPT_GO};

    nbd_put_u32(all, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
    length = 4;
    for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++) {
        begin_option(options[i]);
        if (options[i] == 99)
            add("some data", 9);
        if (options[i] == NBD_OPT_SET_META_CONTEXT) {
            add_string("disk");
            add_u32(1);
            add_string("base:allocation");
        }
        if (options[i] == NBD_OPT_GO) {
            add_string("disk");
            add_u16(1);
            add_u16(NBD_INFO_BLOCK_SIZE);
        }
        nbd_put_u32(message + 12, (uint32_t)(message_bytes - NBD_OPTION_HEADER_BYTES));
        memcpy(all + length, message, message_bytes);
        length += message_bytes;
    }
    memcpy(message, all, length);
    message_bytes = length;
}

START_TEST(handshake_in_pieces_of_any_size_comes_to_the_same_as_in_one)
{
    static uint8_t want[1 << 16];
    size_t want_bytes;

    whole_handshake();
    bmig_nbds_handshake_init(&hs, &EXPORT);
    hs.out_bytes = 0;
    ck_assert_uint_eq(feed(), message_bytes);
    ck_assert_int_eq(hs.phase, BMIG_NBDS_READY);
    ck_assert(hs.structured && hs.allocation && hs.no_zeroes);
    memcpy(want, answer, answer_bytes);
    want_bytes = answer_bytes;

    for (size_t step = 1; step < message_bytes; step++) {
        size_t used = 0, have = 0;

        bmig_nbds_handshake_init(&hs, &EXPORT);
        hs.out_bytes = 0;
        answer_bytes = 0;
        while (used < message_bytes) {
            size_t now;

            ck_assert_uint_le(have, message_bytes);
            have = have + step > message_bytes ? message_bytes : have + step;
            while ((now = bmig_nbds_handshake_input(&hs, message + used, have - used))) {
                used += now;
                take_answer();
            }
        }
        ck_assert_uint_eq(answer_bytes, want_bytes);
        ck_assert_mem_eq(answer, want, want_bytes);
        ck_assert_int_eq(hs.phase, BMIG_NBDS_READY);
    }
}
END_TEST

START_TEST(nothing_is_taken_once_the_handshake_is_over)
{
    whole_handshake();
    memcpy(message + message_bytes, "request", 7);
    message_bytes += 7;
    bmig_nbds_handshake_init(&hs, &EXPORT);
    hs.out_bytes = 0;
    ck_assert_uint_eq(feed(), message_bytes - 7);
}
END_TEST

static uint64_t next_random(uint64_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed;
}

/* The asserts in the machine, and the sanitizers, are what judges here. */
START_TEST(damaged_handshakes_are_survived)
{
    uint64_t seed = 0x9e3779b97f4a7c15;

    for (int round = 0; round < 20000; round++) {
        int damages = (int)(next_random(&seed) % 6);

        whole_handshake();
        while (damages--)
            message[next_random(&seed) % message_bytes] = (uint8_t)next_random(&seed);
        message_bytes -= next_random(&seed) % 40;
        bmig_nbds_handshake_init(&hs, &EXPORT);
        hs.out_bytes = 0;
        ck_assert_uint_le(feed(), message_bytes);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("nbd_handshake");
    TCase *tcase = tcase_create("nbd_handshake");
    SRunner *runner;
    int failed;

    tcase_add_checked_fixture(tcase, setup, NULL);
    tcase_add_test(tcase, greeting_offers_fixed_newstyle_without_zeroes);
    tcase_add_test(tcase, unknown_client_flag_ends_the_session);
    tcase_add_test(tcase, export_name_answers_with_size_flags_and_zeroes_unless_declined);
    tcase_add_test(tcase, client_without_fixed_newstyle_may_name_an_export);
    tcase_add_test(tcase, export_name_of_another_ends_the_session_without_a_word);
    tcase_add_test(tcase, abort_is_acknowledged_and_ends_the_session);
    tcase_add_test(tcase, list_names_the_one_export);
    tcase_add_test(tcase, info_gives_export_always_and_the_rest_when_asked);
    tcase_add_test(tcase, go_to_another_export_is_refused_and_haggling_goes_on);
    tcase_add_test(tcase, info_whose_lengths_do_not_add_up_is_invalid);
    tcase_add_test(tcase, names_up_to_4096_bytes_are_compared_and_longer_ones_refused);
    tcase_add_test(tcase, starttls_and_unknown_options_are_unsupported_and_their_data_skipped);
    tcase_add_test(tcase, known_option_with_too_much_data_is_skipped_and_too_big);
    tcase_add_test(tcase, option_of_absurd_length_or_wrong_magic_ends_the_session);
    tcase_add_test(tcase, structured_replies_are_negotiated_once_and_bring_df);
    tcase_add_test(tcase, contexts_need_structured_replies);
    tcase_add_test(tcase, contexts_are_listed_by_wildcard_and_set_by_name);
    tcase_add_test(tcase, malformed_context_queries_are_invalid_and_deselect);
    tcase_add_test(tcase, handshake_in_pieces_of_any_size_comes_to_the_same_as_in_one);
    tcase_add_test(tcase, nothing_is_taken_once_the_handshake_is_over);
    tcase_add_test(tcase, damaged_handshakes_are_survived);
    suite_add_tcase(suite, tcase);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
