/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The handshake phase: fixed newstyle option haggling, message by message.
 */
#include "blockmig/worker/nbd_handshake.h"

#include <assert.h>

static const char CONTEXT_NAME[] = "base:allocation";

static void put(struct bmig_nbds_handshake *hs, const void *data, size_t length)
{
    assert(length <= sizeof(hs->out) - hs->out_bytes);
    if (length)
        memcpy(hs->out + hs->out_bytes, data, length);
    hs->out_bytes += (uint32_t)length;
}

static void put_u16(struct bmig_nbds_handshake *hs, uint16_t value)
{
    uint8_t bytes[2];

    nbd_put_u16(bytes, value);
    put(hs, bytes, sizeof(bytes));
}

static void put_u32(struct bmig_nbds_handshake *hs, uint32_t value)
{
    uint8_t bytes[4];

    nbd_put_u32(bytes, value);
    put(hs, bytes, sizeof(bytes));
}

static void put_u64(struct bmig_nbds_handshake *hs, uint64_t value)
{
    uint8_t bytes[8];

    nbd_put_u64(bytes, value);
    put(hs, bytes, sizeof(bytes));
}

/* "Fixed newstyle negotiation": what precedes the data of every option reply. */
static void put_reply(struct bmig_nbds_handshake *hs, uint32_t option, uint32_t type, size_t length)
{
    put_u64(hs, NBD_OPTION_REPLY_MAGIC);
    put_u32(hs, option);
    put_u32(hs, type);
    put_u32(hs, (uint32_t)length);
}

static void refuse(struct bmig_nbds_handshake *hs, uint32_t option, uint32_t type, const char *why)
{
    put_reply(hs, option, type, strlen(why));
    put(hs, why, strlen(why));
}

void bmig_nbds_handshake_init(struct bmig_nbds_handshake *hs, const struct bmig_nbds_export *export)
{
    *hs = (struct bmig_nbds_handshake){.export = export, .phase = BMIG_NBDS_FLAGS};
    put_u64(hs, NBD_INIT_MAGIC);
    put_u64(hs, NBD_OPTION_MAGIC);
    put_u16(hs, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
}

/* "Client flags": one that we don't know must end the session. A client without FIXED_NEWSTYLE may
 * be served all the same; the only option it will send is EXPORT_NAME. */
static size_t take_flags(struct bmig_nbds_handshake *hs, const uint8_t *data, size_t length)
{
    uint32_t flags;

    if (length < 4)
        return 0;
    flags = nbd_get_u32(data);
    hs->no_zeroes = flags & NBD_FLAG_NO_ZEROES;
    hs->phase = flags & ~(uint32_t)(NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES)
                    ? BMIG_NBDS_GOODBYE
                    : BMIG_NBDS_OPTION;
    return 4;
}

static bool is_ours(const struct bmig_nbds_handshake *hs, const uint8_t *name, uint32_t length)
{
    return length == 0 ||
           (length == strlen(hs->export->name) && memcmp(name, hs->export->name, length) == 0);
}

static uint16_t transmission_flags(const struct bmig_nbds_handshake *hs)
{
    return (uint16_t)(hs->export->flags | (hs->structured ? NBD_FLAG_SEND_DF : 0));
}

/* The one option that can't be refused with a reply: the session ends instead. */
static void export_name(struct bmig_nbds_handshake *hs, const uint8_t *data, uint32_t length)
{
    static const uint8_t reserved[124];

    if (!is_ours(hs, data, length)) {
        hs->phase = BMIG_NBDS_GOODBYE;
        return;
    }
    put_u64(hs, hs->export->size_bytes);
    put_u16(hs, transmission_flags(hs));
    if (!hs->no_zeroes)
        put(hs, reserved, sizeof(reserved));
    hs->phase = BMIG_NBDS_READY;
}

static void list(struct bmig_nbds_handshake *hs, uint32_t length)
{
    size_t name_bytes = strlen(hs->export->name);

    if (length) {
        refuse(hs, NBD_OPT_LIST, NBD_REP_ERR_INVALID, "LIST takes no data");
        return;
    }
    put_reply(hs, NBD_OPT_LIST, NBD_REP_SERVER, 4 + name_bytes);
    put_u32(hs, (uint32_t)name_bytes);
    put(hs, hs->export->name, name_bytes);
    put_reply(hs, NBD_OPT_LIST, NBD_REP_ACK, 0);
}

static void put_info(struct bmig_nbds_handshake *hs, uint32_t option, enum nbd_info info)
{
    const struct bmig_nbds_export *export = hs->export;
    const char *text = info == NBD_INFO_NAME ? export->name : export->description;

    switch (info) {
    case NBD_INFO_EXPORT:
        put_reply(hs, option, NBD_REP_INFO, 12);
        put_u16(hs, info);
        put_u64(hs, export->size_bytes);
        put_u16(hs, transmission_flags(hs));
        break;
    case NBD_INFO_BLOCK_SIZE:
        put_reply(hs, option, NBD_REP_INFO, 14);
        put_u16(hs, info);
        put_u32(hs, export->block_min_bytes);
        put_u32(hs, export->block_preferred_bytes);
        put_u32(hs, export->block_max_bytes);
        break;
    case NBD_INFO_NAME:
    case NBD_INFO_DESCRIPTION:
        put_reply(hs, option, NBD_REP_INFO, 2 + strlen(text));
        put_u16(hs, info);
        put(hs, text, strlen(text));
        break;
    }
}

/* INFO and GO: a name and the kinds of information that are asked for. Kinds that we don't know are
 * passed over, EXPORT is always given, and one asked for twice is given once, which bounds the
 * answer. */
static void info_or_go(struct bmig_nbds_handshake *hs, uint32_t option, const uint8_t *data,
                       uint32_t length)
{
    uint32_t name_bytes = length >= 6 ? nbd_get_u32(data) : 0;
    unsigned asked = 1u << NBD_INFO_EXPORT;
    const uint8_t *kinds;
    uint32_t count;

    if (length < 6 || name_bytes > length - 6) {
        refuse(hs, option, NBD_REP_ERR_INVALID, "the option's lengths do not add up");
        return;
    }
    kinds = data + 4 + name_bytes + 2;
    count = nbd_get_u16(kinds - 2);
    if (length - 6 - name_bytes != 2 * count) {
        refuse(hs, option, NBD_REP_ERR_INVALID, "the option's lengths do not add up");
        return;
    }
    if (name_bytes > NBD_MAX_STRING_BYTES) {
        refuse(hs, option, NBD_REP_ERR_TOO_BIG, "an export's name has at most 4096 bytes");
        return;
    }
    if (!is_ours(hs, data + 4, name_bytes)) {
        refuse(hs, option, NBD_REP_ERR_UNKNOWN, "there is no export of this name");
        return;
    }
    for (uint32_t i = 0; i < count; i++) {
        uint16_t kind = nbd_get_u16(kinds + 2 * (size_t)i);

        if (kind <= NBD_INFO_BLOCK_SIZE)
            asked |= 1u << kind;
    }
    for (unsigned kind = NBD_INFO_EXPORT; kind <= NBD_INFO_BLOCK_SIZE; kind++)
        if (asked & 1u << kind && (kind != NBD_INFO_DESCRIPTION || hs->export->description[0]))
            put_info(hs, option, (enum nbd_info)kind);
    put_reply(hs, option, NBD_REP_ACK, 0);
    if (option == NBD_OPT_GO)
        hs->phase = BMIG_NBDS_READY;
}

/* Whether a query selects base:allocation; -1 where it is no query at all, for want of a namespace.
 * Wildcards are for listing only: what is set is set by name. */
static int query_matches(uint32_t option, const uint8_t *query, uint32_t length)
{
    bool listing = option == NBD_OPT_LIST_META_CONTEXT;

    if (length == 0)
        return listing;
    if (!memchr(query, ':', length))
        return -1;
    if (length == 5 && memcmp(query, "base:", 5) == 0)
        return listing;
    return length == sizeof(CONTEXT_NAME) - 1 && memcmp(query, CONTEXT_NAME, length) == 0;
}

/* Walks the queries of a LIST_ or SET_META_CONTEXT; whether any matches, or -1 if they are
 * malformed. */
static int match_queries(uint32_t option, const uint8_t *at, const uint8_t *end)
{
    bool found = false, malformed = false;
    uint32_t count = nbd_get_u32(at);

    at += 4;
    if (count == 0 && option == NBD_OPT_LIST_META_CONTEXT)
        found = true;
    for (; count; count--) {
        uint32_t length;
        int match;

        if (end - at < 4)
            return -1;
        length = nbd_get_u32(at);
        at += 4;
        if (length > (size_t)(end - at))
            return -1;
        match = query_matches(option, at, length);
        found |= match > 0;
        malformed |= match < 0;
        at += length;
    }
    return at != end || malformed ? -1 : found;
}

static void meta_context(struct bmig_nbds_handshake *hs, uint32_t option, const uint8_t *data,
                         uint32_t length)
{
    uint32_t name_bytes = length >= 8 ? nbd_get_u32(data) : 0;
    int found;

    /* A SET replaces what was set before, even if it fails. */
    if (option == NBD_OPT_SET_META_CONTEXT)
        hs->allocation = false;
    if (!hs->structured) {
        refuse(hs, option, NBD_REP_ERR_INVALID, "structured replies must be negotiated first");
        return;
    }
    if (length < 8 || name_bytes > length - 8) {
        refuse(hs, option, NBD_REP_ERR_INVALID, "the option's lengths do not add up");
        return;
    }
    if (!is_ours(hs, data + 4, name_bytes)) {
        refuse(hs, option, NBD_REP_ERR_UNKNOWN, "there is no export of this name");
        return;
    }
    found = match_queries(option, data + 4 + name_bytes, data + length);
    if (found < 0) {
        refuse(hs, option, NBD_REP_ERR_INVALID, "the queries are malformed");
        return;
    }
    if (found) {
        bool set = option == NBD_OPT_SET_META_CONTEXT;

        put_reply(hs, option, NBD_REP_META_CONTEXT, 4 + sizeof(CONTEXT_NAME) - 1);
        put_u32(hs, set ? BMIG_NBDS_CONTEXT_ID : 0);
        put(hs, CONTEXT_NAME, sizeof(CONTEXT_NAME) - 1);
        hs->allocation |= set;
    }
    put_reply(hs, option, NBD_REP_ACK, 0);
}

static void structured_reply(struct bmig_nbds_handshake *hs, uint32_t length)
{
    if (length || hs->structured) {
        refuse(hs, NBD_OPT_STRUCTURED_REPLY, NBD_REP_ERR_INVALID,
               length ? "STRUCTURED_REPLY takes no data"
                      : "structured replies were negotiated before");
        return;
    }
    hs->structured = true;
    put_reply(hs, NBD_OPT_STRUCTURED_REPLY, NBD_REP_ACK, 0);
}

/* One whole option that we know. STARTTLS never comes here: without TLS it is an unknown option
 * ("NOTLS mode"). With TLS it would be ACKed here, and whatever the client has already sent behind
 * it must then be thrown away with the session, not taken as if it had come through the tunnel. */
static void take_option(struct bmig_nbds_handshake *hs, uint32_t option, const uint8_t *data,
                        uint32_t length)
{
    switch (option) {
    case NBD_OPT_EXPORT_NAME:
        export_name(hs, data, length);
        break;
    case NBD_OPT_ABORT:
        put_reply(hs, option, NBD_REP_ACK, 0);
        hs->phase = BMIG_NBDS_GOODBYE;
        break;
    case NBD_OPT_LIST:
        list(hs, length);
        break;
    case NBD_OPT_INFO:
    case NBD_OPT_GO:
        info_or_go(hs, option, data, length);
        break;
    case NBD_OPT_STRUCTURED_REPLY:
        structured_reply(hs, length);
        break;
    case NBD_OPT_LIST_META_CONTEXT:
    case NBD_OPT_SET_META_CONTEXT:
        meta_context(hs, option, data, length);
        break;
    default:
        assert(!"an option that is not known");
    }
}

static bool is_known(uint32_t option)
{
    switch (option) {
    case NBD_OPT_EXPORT_NAME:
    case NBD_OPT_ABORT:
    case NBD_OPT_LIST:
    case NBD_OPT_INFO:
    case NBD_OPT_GO:
    case NBD_OPT_STRUCTURED_REPLY:
    case NBD_OPT_LIST_META_CONTEXT:
    case NBD_OPT_SET_META_CONTEXT:
        return true;
    default:
        return false;
    }
}

static size_t skip(struct bmig_nbds_handshake *hs, size_t length)
{
    size_t now = length < hs->skip_bytes ? length : hs->skip_bytes;

    hs->skip_bytes -= (uint32_t)now;
    if (hs->skip_bytes == 0) {
        bool big = hs->skip_reply == NBD_REP_ERR_TOO_BIG;

        refuse(hs, hs->option, hs->skip_reply,
               big ? "the option has too much data" : "the option is not supported");
        hs->phase = BMIG_NBDS_OPTION;
    }
    return now;
}

static size_t option_input(struct bmig_nbds_handshake *hs, const uint8_t *data, size_t length)
{
    uint32_t option, option_bytes;

    if (length < NBD_OPTION_HEADER_BYTES)
        return 0;
    option = nbd_get_u32(data + 8);
    option_bytes = nbd_get_u32(data + 12);
    if (nbd_get_u64(data) != NBD_OPTION_MAGIC || option_bytes > BMIG_NBDS_OPTION_SKIP_BYTES ||
        (option == NBD_OPT_EXPORT_NAME && option_bytes > NBD_MAX_STRING_BYTES)) {
        hs->phase = BMIG_NBDS_GOODBYE;
        return NBD_OPTION_HEADER_BYTES;
    }
    if (!is_known(option) || option_bytes > BMIG_NBDS_OPTION_MAX_BYTES) {
        size_t rest = length - NBD_OPTION_HEADER_BYTES;

        hs->phase = BMIG_NBDS_SKIP;
        hs->option = option;
        hs->skip_bytes = option_bytes;
        hs->skip_reply = is_known(option) ? NBD_REP_ERR_TOO_BIG : NBD_REP_ERR_UNSUP;
        return NBD_OPTION_HEADER_BYTES + skip(hs, rest);
    }
    if (length - NBD_OPTION_HEADER_BYTES < option_bytes)
        return 0;
    take_option(hs, option, data + NBD_OPTION_HEADER_BYTES, option_bytes);
    return NBD_OPTION_HEADER_BYTES + option_bytes;
}

size_t bmig_nbds_handshake_input(struct bmig_nbds_handshake *hs, const uint8_t *data, size_t length)
{
    assert(hs->out_bytes == 0);
    switch (hs->phase) {
    case BMIG_NBDS_FLAGS:
        return take_flags(hs, data, length);
    case BMIG_NBDS_OPTION:
        return option_input(hs, data, length);
    case BMIG_NBDS_SKIP:
        return skip(hs, length);
    case BMIG_NBDS_READY:
    case BMIG_NBDS_GOODBYE:
        break;
    }
    return 0;
}
