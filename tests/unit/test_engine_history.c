/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The engine against a history of every block: seeded random guests, moves, faults and switches on
 * simulated disks.
 *
 * Each write carries its number in every block. A read may return, for a block, no write older than
 * the newest that had been answered when the read began, nor older than what an earlier read
 * returned, nor one not yet submitted. After each move both replicas are read beside the engine and
 * must be equal.
 *
 * HISTORY_SEEDS=N and HISTORY_FIRST=S change how many runs there are and where they begin.
 */
#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/disk_helper.h"
#include "tests/unit/engine_rig.h"

enum { BLOCK = 4096, BLOCKS = 512, DEPTH = 12, LONGEST = 24, LOG = 64 };

struct entry {
    uint64_t number;
    bool zero;
};

struct block {
    uint64_t answered; /* the newest write whose success the guest knows */
    uint64_t seen;     /* the newest that a read returned */
    uint64_t durable;  /* the newest that was answered with FUA or before a flush began that was */
    struct entry log[LOG];
    unsigned logged;
};

struct guest;
struct slot {
    struct bmig_volume_request request;
    struct guest *guest;
    bool busy;
    uint64_t number;
    uint64_t floor[LONGEST];
    uint64_t promised[BLOCKS]; /* FLUSH: what had been answered when it was submitted */
};

struct guest {
    struct engine_rig *rig;
    uint64_t seed, random;
    uint64_t number;
    struct block blocks[BLOCKS];
    struct slot slots[DEPTH];
    unsigned busy;
    uint64_t writes, reads;
    bool failures_expected;
};

static uint64_t below(struct guest *guest, uint64_t n)
{
    return test_random(&guest->random) % n;
}

static void log_write(struct guest *guest, uint64_t block, uint64_t number, bool zero)
{
    struct block *b = &guest->blocks[block];
    b->log[b->logged++ % LOG] = (struct entry){.number = number, .zero = zero};
}

/* The oldest logged write of the content that a read gave and that is not before floor, or
 * UINT64_MAX. */
static uint64_t identify(const struct block *block, uint64_t content, uint64_t floor)
{
    uint64_t best = UINT64_MAX;
    if (content == 0 && floor == 0)
        return 0;
    unsigned count = block->logged < LOG ? block->logged : LOG;
    for (unsigned i = 0; i < count; i++) {
        const struct entry *entry = &block->log[i];
        bool match = entry->zero ? content == 0 : content == entry->number;
        if (match && entry->number >= floor && entry->number < best)
            best = entry->number;
    }
    return best;
}

static void check_read(struct slot *slot)
{
    struct guest *guest = slot->guest;
    uint64_t first = slot->request.offset / BLOCK;
    for (uint64_t i = 0; i < slot->request.length / BLOCK; i++) {
        struct block *block = &guest->blocks[first + i];
        uint64_t words[2];
        memcpy(words, slot->request.data + i * BLOCK, sizeof(words));
        uint64_t tail;
        memcpy(&tail, slot->request.data + (i + 1) * BLOCK - 8, 8);
        ck_assert_msg(tail == words[0], "seed %llu: block %llu is torn",
                      (unsigned long long)guest->seed, (unsigned long long)(first + i));
        if (words[0])
            ck_assert_msg(words[1] == first + i, "seed %llu: block %llu holds block %llu",
                          (unsigned long long)guest->seed, (unsigned long long)(first + i),
                          (unsigned long long)words[1]);
        uint64_t number = identify(block, words[0], slot->floor[i]);
        ck_assert_msg(number != UINT64_MAX,
                      "seed %llu: block %llu reads as write %llu, but %llu was known before",
                      (unsigned long long)guest->seed, (unsigned long long)(first + i),
                      (unsigned long long)words[0], (unsigned long long)slot->floor[i]);
        if (number > block->seen)
            block->seen = number;
    }
}

static enum bmig_mirror_state state_of(struct guest *guest)
{
    struct bmig_mirror_stats stats;
    bmig_mirror_stats(guest->rig->volume, &stats);
    return stats.state;
}

static void answered(struct bmig_volume_request *request, int status)
{
    struct slot *slot = ENGINE_RIG_OFFSET(struct slot, request, request);
    struct guest *guest = slot->guest;
    ck_assert(slot->busy);
    slot->busy = false;
    guest->busy--;
    ck_assert_msg(
        status == 0 || guest->failures_expected,
        "seed %llu: the guest got error %d for op %d at %llu, mirror %s, primary is disk %d",
        (unsigned long long)guest->seed, status, (int)request->op,
        (unsigned long long)request->offset, bmig_mirror_state_name(state_of(guest)),
        bmig_volume_primary(guest->rig->volume) == guest->rig->disks[1]);
    if (status == 0 && request->op == BMIG_READ) {
        check_read(slot);
    } else if (status == 0 && request->op != BMIG_FLUSH) {
        for (uint64_t i = 0; i < request->length / BLOCK; i++) {
            struct block *block = &guest->blocks[request->offset / BLOCK + i];
            if (slot->number > block->answered)
                block->answered = slot->number;
            if (request->flags & BMIG_FUA && slot->number > block->durable)
                block->durable = slot->number;
        }
    }
    if (status == 0 && request->op == BMIG_FLUSH)
        for (unsigned i = 0; i < BLOCKS; i++)
            if (slot->promised[i] > guest->blocks[i].durable)
                guest->blocks[i].durable = slot->promised[i];
    bmig_buffer_unref(request->buffer);
}

static void fill(struct slot *slot)
{
    for (uint64_t i = 0; i < slot->request.length / BLOCK; i++) {
        uint64_t words[2] = {slot->number, slot->request.offset / BLOCK + i};
        uint8_t *block = slot->request.data + i * BLOCK;
        memset(block, 0x5a, BLOCK);
        memcpy(block, words, sizeof(words));
        memcpy(block + BLOCK - 8, words, 8);
    }
}

static void issue(struct guest *guest)
{
    struct slot *slot = guest->slots;
    while (slot->busy)
        slot++;
    static const enum bmig_op ops[] = {BMIG_WRITE, BMIG_WRITE, BMIG_WRITE, BMIG_READ,
                                       BMIG_READ,  BMIG_ZERO,  BMIG_FLUSH};
    memset(&slot->request, 0, sizeof(slot->request));
    struct bmig_volume_request *request = &slot->request;
    request->op = ops[below(guest, 7)];
    request->done = answered;
    slot->guest = guest;
    slot->busy = true;
    guest->busy++;
    if (request->op != BMIG_FLUSH) {
        uint64_t count = 1 + below(guest, below(guest, 4) ? 3 : LONGEST);
        uint64_t first = below(guest, below(guest, 3) ? BLOCKS - count + 1 : 40);
        request->offset = first * BLOCK;
        request->length = count * BLOCK;
        for (uint64_t i = 0; i < count; i++) {
            const struct block *block = &guest->blocks[first + i];
            slot->floor[i] = block->answered > block->seen ? block->answered : block->seen;
        }
        if (request->op != BMIG_READ) {
            slot->number = ++guest->number;
            for (uint64_t i = 0; i < count; i++)
                log_write(guest, first + i, slot->number, request->op == BMIG_ZERO);
            guest->writes++;
        }
        if (request->op == BMIG_ZERO)
            request->flags = below(guest, 2) ? BMIG_MAY_UNMAP : 0;
        else {
            request->buffer = bmig_buffer_get(guest->rig->pool, (uint32_t)request->length);
            ck_assert_ptr_nonnull(request->buffer);
            request->data = request->buffer->data;
        }
        if (request->op == BMIG_WRITE) {
            request->flags = below(guest, 4) ? 0 : BMIG_FUA;
            fill(slot);
        }
    }
    for (unsigned i = 0; request->op == BMIG_FLUSH && i < BLOCKS; i++)
        slot->promised[i] = guest->blocks[i].answered;
    bmig_volume_submit(guest->rig->volume, request);
}

/* The guest works for a number of turns, each a few requests and a step of the world. */
static void work(struct guest *guest, unsigned turns)
{
    for (unsigned i = 0; i < turns; i++) {
        while (guest->busy < DEPTH && below(guest, 3))
            issue(guest);
        bmig_loop_step(guest->rig->loop, UINT64_C(1000000));
    }
}

static void drain(struct guest *guest)
{
    while (guest->busy)
        bmig_loop_step(guest->rig->loop, UINT64_MAX);
}

static void some_delays(struct guest *guest, struct bmig_disk *disk)
{
    struct bmig_disk *delay = bmig_delay_find(disk);
    bmig_delay_set(delay, BMIG_OPS_ALL, below(guest, 2000000), below(guest, 8000000));
}

static void some_faults(struct guest *guest, struct bmig_disk *disk, uint32_t ops)
{
    struct bmig_disk *faults = bmig_faults_find(disk);
    struct bmig_fault fault = {.kind = below(guest, 2) ? BMIG_FAULT_ERROR : BMIG_FAULT_LATE,
                               .ops = ops,
                               .error = EIO,
                               .times = 1 + below(guest, 4),
                               .after = below(guest, 20)};
    bmig_faults_add(faults, &fault);
}

static void until_synced(struct guest *guest)
{
    for (unsigned turns = 0; state_of(guest) != BMIG_MIRROR_SYNCED; turns++) {
        ck_assert_msg(turns < 200000, "seed %llu: the copy does not end",
                      (unsigned long long)guest->seed);
        ck_assert_msg(state_of(guest) != BMIG_MIRROR_DEGRADED, "seed %llu: degraded",
                      (unsigned long long)guest->seed);
        work(guest, 1);
    }
}

static struct bmig_disk *secondary(struct guest *guest)
{
    return bmig_mirror_secondary(guest->rig->volume);
}

/* A switch with the guest at work, decided either way; legs of either replica may fail while it is
 * in doubt. */
static void one_switch(struct guest *guest, uint64_t *epoch)
{
    struct engine_rig *rig = guest->rig;
    int status = -EAGAIN;
    do {
        until_synced(guest);
        work(guest, (unsigned)below(guest, 30));
        if (state_of(guest) != BMIG_MIRROR_SYNCED)
            continue;
        status = engine_rig_prepare(rig);
    } while (status != 0);
    bool commit = below(guest, 3);
    unsigned faults = (unsigned)below(guest, 3);
    if (faults == 1)
        some_faults(guest, secondary(guest), 1 << BMIG_WRITE | 1 << BMIG_ZERO);
    if (faults == 2 && commit) /* on an abort the guest would rightly get the error */
        some_faults(guest, bmig_volume_primary(rig->volume), 1 << BMIG_WRITE | 1 << BMIG_ZERO);
    work(guest, (unsigned)below(guest, 20));
    if (commit) { /* what is the secondary now will answer the guest then */
        bmig_faults_clear(bmig_faults_find(rig->disks[0]));
        bmig_faults_clear(bmig_faults_find(rig->disks[1]));
    }
    if (commit)
        bmig_mirror_switch_commit(rig->volume, ++*epoch);
    else
        bmig_mirror_switch_abort(rig->volume);
    work(guest, 20);
    bmig_faults_clear(bmig_faults_find(rig->disks[0]));
    bmig_faults_clear(bmig_faults_find(rig->disks[1]));
}

static void one_run(uint64_t seed)
{
    struct engine_rig rig;
    struct guest *guest = calloc(1, sizeof(*guest));
    uint64_t epoch = 1;
    guest->seed = guest->random = seed;
    guest->rig = &rig;
    engine_rig_init(&rig, BLOCKS * BLOCK);
    some_delays(guest, rig.disks[0]);
    some_delays(guest, rig.disks[1]);
    work(guest, 50);
    engine_rig_mirror(&rig, true, below(guest, 2));
    if (below(guest, 2))
        some_faults(guest, rig.disks[1], BMIG_OPS_ALL);
    for (unsigned i = 0; i < 3; i++) {
        one_switch(guest, &epoch);
        some_delays(guest, rig.disks[below(guest, 2)]);
    }
    until_synced(guest);
    drain(guest);
    engine_rig_until(&rig, BMIG_MIRROR_SYNCED);
    ck_assert_uint_eq(bmig_volume_epoch(rig.volume), epoch);
    struct bmig_disk *primary = bmig_volume_primary(rig.volume);
    ck_assert_msg(engine_rig_equal(&rig), "seed %llu: the replicas differ",
                  (unsigned long long)seed);
    engine_rig_stop(&rig);
    ck_assert_ptr_eq(bmig_volume_primary(rig.volume), primary);
    work(guest, 50);
    drain(guest);
    engine_rig_fini(&rig);
    free(guest);
}

/* ---- power cuts ---- */

/* The power goes now: what was promised to be durable must be on the replica that the record names. */
static void check_power_cut(struct guest *guest, unsigned named, const char *when)
{
    uint64_t size = BLOCKS * BLOCK;
    uint8_t *image = calloc(1, size);
    const struct bmig_disk *record = bmig_record_find(guest->rig->disks[named]);
    ck_assert_int_eq(bmig_record_cut_power(record, bmig_record_events(record),
                                           test_random(&guest->random), image, size),
                     0);
    for (unsigned i = 0; i < BLOCKS; i++) {
        const struct block *block = &guest->blocks[i];
        uint64_t ends[2];
        memcpy(&ends[0], image + (uint64_t)i * BLOCK, 8);
        memcpy(&ends[1], image + (uint64_t)(i + 1) * BLOCK - 8, 8);
        for (unsigned end = 0; end < 2; end++)
            ck_assert_msg(identify(block, ends[end], block->durable) != UINT64_MAX,
                          "seed %llu: power cut %s: block %u of disk %u holds write %llu, but %llu "
                          "was durable",
                          (unsigned long long)guest->seed, when, i, named,
                          (unsigned long long)ends[end], (unsigned long long)block->durable);
    }
    free(image);
}

static void work_and_cut(struct guest *guest, unsigned times, unsigned named, const char *when)
{
    for (unsigned i = 0; i < times; i++) {
        work(guest, 1 + (unsigned)below(guest, 4));
        check_power_cut(guest, named, when);
    }
}

static void on_prepared(void *user, int status)
{
    *(int *)user = status;
}

static void run_with_power_cuts(uint64_t seed)
{
    struct engine_rig rig;
    struct guest *guest = calloc(1, sizeof(*guest));
    unsigned named = 0;
    guest->seed = guest->random = seed;
    guest->rig = &rig;
    engine_rig_init(&rig, BLOCKS * BLOCK);
    for (unsigned i = 0; i < 2; i++) {
        bmig_record_set_data(bmig_record_find(rig.disks[i]), BMIG_RECORD_KEEP);
        some_delays(guest, rig.disks[i]);
    }
    work(guest, 20);
    engine_rig_mirror(&rig, true, below(guest, 2));
    work_and_cut(guest, 4, named, "in the copy");
    for (uint64_t epoch = 2; epoch < 4; epoch++) {
        int status = 1;
        until_synced(guest);
        ck_assert_int_eq(bmig_mirror_switch_prepare(rig.volume, on_prepared, &status), 0);
        while (status == 1)
            work_and_cut(guest, 1, named, "while a switch is prepared");
        ck_assert_int_eq(status, 0);
        work_and_cut(guest, 2, named, "before the record");
        named = 1 - named; /* the record is durable, and nobody but its writer knows yet */
        work_and_cut(guest, 4, named, "between record and flip");
        bmig_mirror_switch_commit(rig.volume, epoch);
        work_and_cut(guest, 6, named, "after the flip");
    }
    drain(guest);
    check_power_cut(guest, named, "at the end");
    engine_rig_fini(&rig);
    free(guest);
}

/* A new image where the secondary was, and a mirror to it. */
static void fresh_mirror(struct guest *guest)
{
    struct engine_rig *rig = guest->rig;
    unsigned index = bmig_volume_primary(rig->volume) == rig->disks[0];
    struct bmig_open_options options = {.writable = true};
    struct bmig_mirror_options mirror = {.verify = below(guest, 2), .paused = below(guest, 4) == 0};
    struct bmig_error err = {0};
    char uri[64];
    snprintf(uri, sizeof(uri), "mem:?size=%d", BLOCKS * BLOCK);
    test_close(rig->disks[index]);
    rig->disks[index] = test_open(rig->loop, uri, "record: faults: delay:", &options);
    rig->disks[index]->known_zero = true;
    some_delays(guest, rig->disks[index]);
    ck_assert_int_eq(bmig_mirror_start(rig->volume, rig->disks[index], &mirror, NULL, NULL, &err),
                     0);
}

/* A move that is stopped at any moment, hangs and is given up, or is switched and let go. */
static void one_move(struct guest *guest, uint64_t *epoch)
{
    struct engine_rig *rig = guest->rig;
    fresh_mirror(guest);
    work(guest, (unsigned)below(guest, 60));
    bmig_mirror_pause(rig->volume, false);
    switch (below(guest, 4)) {
    case 0:
        break;
    case 1: {
        static const uint32_t ops[] = {1 << BMIG_WRITE, 1 << BMIG_FLUSH | 1 << BMIG_READ,
                                       BMIG_OPS_ALL};
        bmig_delay_set_hang(bmig_delay_find(secondary(guest)), ops[below(guest, 3)]);
        work(guest, 200);
        break;
    }
    case 2:
        some_faults(guest, secondary(guest), BMIG_OPS_ALL);
        /* fall through */
    default:
        one_switch(guest, epoch);
        work(guest, (unsigned)below(guest, 20));
    }
    engine_rig_stop(rig);
}

static void run_of_moves(uint64_t seed)
{
    struct engine_rig rig;
    struct guest *guest = calloc(1, sizeof(*guest));
    uint64_t epoch = 1;
    guest->seed = guest->random = seed;
    guest->rig = &rig;
    engine_rig_init(&rig, BLOCKS * BLOCK);
    some_delays(guest, rig.disks[0]);
    work(guest, 50);
    for (unsigned i = 0; i < 6; i++)
        one_move(guest, &epoch);
    work(guest, 50);
    drain(guest);
    ck_assert_uint_eq(bmig_volume_epoch(rig.volume), epoch);
    engine_rig_fini(&rig);
    free(guest);
}

static uint64_t from_environment(const char *name, uint64_t fallback)
{
    const char *text = getenv(name);
    return text ? strtoull(text, NULL, 10) : fallback;
}

START_TEST(every_read_is_as_new_as_what_the_guest_knows)
{
    uint64_t first = from_environment("HISTORY_FIRST", 1);
    uint64_t seeds = from_environment("HISTORY_SEEDS", 150);
    for (uint64_t seed = first; seed < first + seeds; seed++)
        one_run(seed);
}
END_TEST

START_TEST(moves_in_a_row_ended_anyhow_lose_nothing)
{
    uint64_t first = from_environment("HISTORY_FIRST", 1);
    uint64_t seeds = from_environment("HISTORY_SEEDS", 150) / 3 + 1;
    for (uint64_t seed = first; seed < first + seeds; seed++)
        run_of_moves(seed);
}
END_TEST

START_TEST(what_was_durable_survives_a_power_cut_on_the_replica_of_the_record)
{
    uint64_t first = from_environment("HISTORY_FIRST", 1);
    uint64_t seeds = from_environment("HISTORY_SEEDS", 150) / 5 + 1;
    for (uint64_t seed = first; seed < first + seeds; seed++)
        run_with_power_cuts(seed);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("engine_history");
    TCase *tcase = tcase_create("seeded");
    tcase_set_timeout(tcase, 600);
    tcase_add_test(tcase, every_read_is_as_new_as_what_the_guest_knows);
    tcase_add_test(tcase, moves_in_a_row_ended_anyhow_lose_nothing);
    tcase_add_test(tcase, what_was_durable_survives_a_power_cut_on_the_replica_of_the_record);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
