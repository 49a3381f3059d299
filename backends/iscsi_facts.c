/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Facts: what the LUN says of itself (SBC-3, SPC-4), read from bytes that a target sent and may
 * have got wrong: every field is looked at only where the answer is long enough to have it.
 */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

#include "backends/iscsi.h"

static uint16_t be16(const uint8_t *p)
{
    return (uint16_t)(p[0] << 8 | p[1]);
}
static uint32_t be32(const uint8_t *p)
{
    return (uint32_t)be16(p) << 16 | be16(p + 2);
}
static uint64_t be64(const uint8_t *p)
{
    return (uint64_t)be32(p) << 32 | be32(p + 4);
}

bool bmig_iscsi_parse_capacity16(struct bmig_iscsi_facts *facts, const uint8_t *data, size_t length)
{
    if (length < 12)
        return false;
    uint64_t last = be64(data);
    uint32_t block = be32(data + 8);
    if (block < 512 || block > 65536 || (block & (block - 1)) != 0)
        return false;
    if (last >= (uint64_t)INT64_MAX / block)
        return false;
    facts->size_bytes = (last + 1) * block;
    facts->block_bytes = block;
    if (length >= 16) {
        facts->thin = data[14] >> 7 & 1;
        facts->zeroes = data[14] >> 6 & 1;
    }
    return true;
}

/* A VPD page's own length, where it is one: bytes that may be read of it. */
static size_t page_bytes(const uint8_t *data, size_t length, uint8_t page)
{
    if (length < 4 || data[1] != page)
        return 0;
    size_t told = 4 + (size_t)be16(data + 2);
    return told < length ? told : length;
}

void bmig_iscsi_parse_block_limits(struct bmig_iscsi_facts *facts, const uint8_t *data,
                                   size_t length)
{
    length = page_bytes(data, length, 0xb0);
    if (length >= 12)
        facts->max_transfer_blocks = be32(data + 8);
    if (length >= 24)
        facts->max_unmap_blocks = be32(data + 20);
    if (length >= 44)
        facts->max_write_same_blocks = be64(data + 36);
}

void bmig_iscsi_parse_provisioning(struct bmig_iscsi_facts *facts, const uint8_t *data,
                                   size_t length)
{
    length = page_bytes(data, length, 0xb2);
    if (length < 6)
        return;
    facts->unmap = data[5] >> 7 & 1;
    facts->ws_unmap = data[5] >> 6 & 1;
}

void bmig_iscsi_parse_characteristics(struct bmig_iscsi_facts *facts, const uint8_t *data,
                                      size_t length)
{
    length = page_bytes(data, length, 0xb1);
    /* 0: not told, 1: does not rotate, else turns per minute. */
    if (length >= 6)
        facts->rotational = be16(data + 4) > 1;
}

void bmig_iscsi_parse_mode6(struct bmig_iscsi_facts *facts, const uint8_t *data, size_t length)
{
    if (length < 4)
        return;
    if (length > (size_t)data[0] + 1)
        length = (size_t)data[0] + 1;
    facts->write_protected = data[2] >> 7 & 1;
    facts->fua = data[2] >> 4 & 1;
    for (size_t at = 4 + (size_t)data[3]; at + 2 < length; at += 2 + (size_t)data[at + 1])
        if ((data[at] & 0x3f) == 0x08)
            facts->write_cache = data[at + 2] >> 2 & 1;
}

/* Of the logical unit's designators the most telling kind; the values are how much a kind is liked.
 */
static int liking(uint8_t type)
{
    switch (type) {
    case 3:
        return 4; /* NAA */
    case 2:
        return 3; /* EUI-64 */
    case 8:
        return 2; /* SCSI name string */
    case 1:
        return 1; /* T10 vendor */
    default:
        return 0;
    }
}

static void name_designator(char *text, size_t capacity, uint8_t type, const uint8_t *bytes,
                            size_t length)
{
    static const char *const words[] = {"", "t10.", "eui.", "naa.", "", "", "", "", "name."};
    size_t used = (size_t)snprintf(text, capacity, "iscsi:%s", words[type]);
    for (size_t i = 0; i < length && used + 3 < capacity; i++) {
        if (type == 3 || type == 2)
            used += (size_t)snprintf(text + used, capacity - used, "%02x", bytes[i]);
        else if (isgraph(bytes[i]))
            text[used++] = (char)bytes[i], text[used] = 0;
    }
}

void bmig_iscsi_parse_identity(struct bmig_iscsi_facts *facts, const uint8_t *page83,
                               size_t length83, const uint8_t *page80, size_t length80,
                               const char *fallback)
{
    length83 = page_bytes(page83, length83, 0x83);
    length80 = page_bytes(page80, length80, 0x80);
    char best[88];
    snprintf(best, sizeof best, "iscsi:%s", fallback);
    int best_liking = 0;
    XXH64_hash_t sum = length80 > 4 ? XXH3_64bits(page80 + 4, length80 - 4) : 0;
    bool any = length80 > 4;
    for (size_t at = 4; at + 4 <= length83; at += 4 + (size_t)page83[at + 3]) {
        const uint8_t *designator = page83 + at;
        size_t bytes = designator[3];
        uint8_t type = designator[1] & 0xf;
        if (at + 4 + bytes > length83)
            break;
        if ((designator[1] >> 4 & 3) != 0 || bytes == 0)
            continue; /* of the port or the whole device */
        sum = XXH3_64bits_withSeed(designator + 4, bytes, sum);
        any = true;
        if (liking(type) > best_liking) {
            best_liking = liking(type);
            name_designator(best, sizeof best, type, designator + 4, bytes);
        }
    }
    /* Some targets number their NAA names alike in every instance, so everything told goes into a
     * sum. */
    if (any)
        snprintf(facts->identity, sizeof facts->identity, "%s-%016llx", best,
                 (unsigned long long)sum);
    else
        snprintf(facts->identity, sizeof facts->identity, "iscsi:%s", fallback);
}

int bmig_iscsi_parse_lba_status(const uint8_t *data, size_t length, uint64_t lba,
                                uint64_t block_count, uint32_t block_bytes, bool zeroes,
                                struct bmig_extents *extents)
{
    if (length < 8)
        return -EIO;
    uint64_t told = (uint64_t)be32(data) + 4;
    if (told < length)
        length = told;
    uint64_t at = lba, end = lba + block_count;
    for (size_t offset = 8; offset + 16 <= length && at < end; offset += 16) {
        uint64_t first = be64(data + offset), count = be32(data + offset + 8);
        /* The first descriptor may begin before the question; a gap means that the rest is noise.
         */
        if (first > at || first + count < first)
            break;
        if (first + count <= at)
            continue;
        count -= at - first;
        if (count > end - at)
            count = end - at;
        uint8_t state = data[offset + 12] & 0xf;
        uint32_t flags = BMIG_EXTENT_DATA;
        if (state == SCSI_PROVISIONING_TYPE_DEALLOCATED)
            flags = BMIG_EXTENT_HOLE | (zeroes ? BMIG_EXTENT_ZERO : 0);
        else if (state == SCSI_PROVISIONING_TYPE_ANCHORED && zeroes)
            flags = BMIG_EXTENT_ZERO;
        if (bmig_extents_add(extents, count * block_bytes, flags))
            break;
        at += count;
    }
    return at > lba ? 0 : -EIO;
}
