/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * copy and verify: whole images, without a daemon and without a guest.
 *
 * Everything that can be known is checked before the first byte is written. A target that we made
 * is removed again unless the copy ended well, so that a file by that name is always a whole one.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "blockmig/engine/transfer.h"
#include "cli/output.h"
#include "cli/session.h"

struct copy {
    struct bmig_cli *cli;
    struct bmig_place source, target;
    struct bmig_place_stat source_stat, target_stat;
    bool created;
    bool touched; /* an existing target may have been written to */
    struct bmig_mirror_stats stats;
    double seconds;
};

static int check_same(const char *a, const struct bmig_place_stat *a_stat, const char *b,
                      const struct bmig_place_stat *b_stat, struct bmig_error *err)
{
    if (!a_stat->identity[0] || strcmp(a_stat->identity, b_stat->identity) != 0)
        return 0;
    return bmig_error_set(err, BMIG_REFUSED, EINVAL,
                          "'%.180s' and '%.180s' are one and the same image", a, b);
}

static int check_existing(const struct copy *copy, struct bmig_error *err)
{
    const struct bmig_place_stat *target = &copy->target_stat;
    uint64_t size = copy->source_stat.size_bytes;
    char has[32], needs[32];
    bmig_output_size(has, sizeof(has), target->size_bytes);
    bmig_output_size(needs, sizeof(needs), size);
    if (!target->fixed && !bmig_cli_given(copy->cli, "force"))
        return bmig_error_set(err, BMIG_REFUSED, EEXIST,
                              "'%.300s' exists: remove it, or write over it with --force",
                              copy->target.given);
    if (target->size_bytes < size)
        return bmig_error_set(err, BMIG_REFUSED, ENOSPC,
                              "'%.200s' is too small: %" PRIu64
                              " bytes (%s), the source has %" PRIu64 " (%s)",
                              copy->target.given, target->size_bytes, has, size, needs);
    if (!target->fixed && target->size_bytes > size)
        return bmig_error_set(err, BMIG_REFUSED, EINVAL,
                              "'%.200s' is larger than the source (%" PRIu64 " bytes, not %" PRIu64
                              ") and would keep its old end: remove it first",
                              copy->target.given, target->size_bytes, size);
    return 0;
}

static int check_room(const struct copy *copy, struct bmig_error *err)
{
    uint64_t room = copy->target_stat.free_bytes;
    uint64_t needed = copy->source_stat.allocated_bytes;
    char has[32], needs[32];
    if (room == UINT64_MAX || needed == UINT64_MAX || needed <= room)
        return 0;
    if (needed > copy->source_stat.size_bytes && copy->source_stat.size_bytes <= room)
        return 0;
    return bmig_error_set(err, BMIG_REFUSED, ENOSPC,
                          "'%.200s': no room: the source holds %s, the place has %s free",
                          copy->target.given, bmig_output_size(needs, sizeof(needs), needed),
                          bmig_output_size(has, sizeof(has), room));
}

static int preflight(struct copy *copy, struct bmig_error *err)
{
    int rc = bmig_session_stat(&copy->source, &copy->source_stat, err);
    if (rc < 0)
        return rc;
    struct bmig_open_options options = bmig_session_options(&copy->target, true, true);
    rc = bmig_image_stat(&copy->target.spec, &options, &copy->target_stat, err);
    if (rc < 0)
        return rc;
    if (copy->source_stat.size_bytes == 0)
        return bmig_error_set(err, BMIG_REFUSED, EINVAL,
                              "'%.300s' is empty: there is no disk in it", copy->source.given);
    if (!copy->target_stat.exists)
        return check_room(copy, err);
    rc = check_same(copy->source.given, &copy->source_stat, copy->target.given, &copy->target_stat,
                    err);
    return rc < 0 ? rc : check_existing(copy, err);
}

/* The source is opened first: nothing is made for a source that can't be read. */
static int open_both(struct copy *copy, struct bmig_session *session, struct bmig_error *err)
{
    struct bmig_open_options options = bmig_session_options(&copy->source, false, true);
    int rc = bmig_session_open(session, 0, &copy->source, &options, err);
    if (rc < 0)
        return rc;
    options = bmig_session_options(&copy->target, true, true);
    if (!copy->target_stat.exists) {
        rc = bmig_image_create(&copy->target.spec, session->disks[0]->size_bytes, &options, err);
        if (rc < 0)
            return rc;
        copy->created = true;
    }
    rc = bmig_session_open(session, 1, &copy->target, &options, err);
    if (rc < 0)
        return rc;
    /* A size asked for by stat and one that open found may differ where someone is at work there.
     */
    if (session->disks[1]->size_bytes < session->disks[0]->size_bytes)
        return bmig_error_set(err, BMIG_REFUSED, ENOSPC, "'%.300s' is smaller than the source",
                              copy->target.given);
    if (copy->created || (copy->target_stat.fixed && copy->target_stat.known_zero))
        session->disks[1]->known_zero = true;
    return 0;
}

static int run_copy(struct copy *copy, struct bmig_session *session, struct bmig_error *err)
{
    struct bmig_transfer_options options = {
        .bandwidth_bytes_per_s = bmig_cli_number(copy->cli, "bandwidth", 0),
        .verify = bmig_cli_given(copy->cli, "verify"),
        .progress = bmig_session_progress,
        .user = session,
        .stop = session->stop,
    };
    uint64_t begin_ns = bmig_api_now_ns();
    copy->touched = true;
    int rc = bmig_transfer(session->loop, session->pool, session->disks[0], session->disks[1],
                           &options, &copy->stats, err);
    copy->seconds = (double)(bmig_api_now_ns() - begin_ns) / 1e9;
    return rc;
}

/* What holds of the target after a failure, in the message and in fact. */
static void undo(struct copy *copy, struct bmig_error *err)
{
    struct bmig_error why = {0};
    struct bmig_open_options options = bmig_session_options(&copy->target, true, true);
    if (copy->created && bmig_image_remove(&copy->target.spec, &options, &why) == 0)
        bmig_session_add(err, "; '%.150s' was removed again", copy->target.given);
    else if (copy->created)
        bmig_session_add(err, "; '%.150s' is incomplete and could not be removed: %.100s",
                         copy->target.given, why.message);
    else if (copy->touched)
        bmig_session_add(err, "; '%.150s' now holds a part of the copy and a part of what it held",
                         copy->target.given);
}

static void report(struct copy *copy)
{
    const struct bmig_mirror_stats *stats = &copy->stats;
    double rate = copy->seconds > 0 ? (double)stats->bytes_copied / copy->seconds : 0;
    bool verified = bmig_cli_given(copy->cli, "verify");
    char total[32], copied[32], skipped[32], speed[32];
    if (copy->cli->json) {
        bmig_output_json(stdout, json_pack("{s:o,s:o,s:I,s:I,s:I,s:I,s:b,s:f,s:I}", "source",
                                           bmig_output_json_text(copy->source.given), "target",
                                           bmig_output_json_text(copy->target.given), "size_bytes",
                                           (json_int_t)copy->source_stat.size_bytes, "bytes_copied",
                                           (json_int_t)stats->bytes_copied, "bytes_skipped",
                                           (json_int_t)stats->bytes_skipped, "bytes_verified",
                                           (json_int_t)stats->bytes_verified, "verified", verified,
                                           "elapsed_s", copy->seconds, "rate_bytes_per_s",
                                           (json_int_t)rate));
        return;
    }
    printf("copied %s of %s in %.1f s (%s/s); %s were zero or holes%s\n",
           bmig_output_size(copied, sizeof(copied), stats->bytes_copied),
           bmig_output_size(total, sizeof(total), copy->source_stat.size_bytes), copy->seconds,
           bmig_output_size(speed, sizeof(speed), (uint64_t)rate),
           bmig_output_size(skipped, sizeof(skipped), stats->bytes_skipped),
           verified ? "; verified: both are equal" : "");
    if (copy->target_stat.exists && copy->target_stat.size_bytes > copy->source_stat.size_bytes)
        fprintf(stderr, "'%s' is larger than the source: its rest was left as it was\n",
                copy->target.given);
}

int bmig_cli_copy(struct bmig_cli *cli, struct bmig_error *err)
{
    struct copy copy = {.cli = cli};
    struct bmig_session session = {0};
    const char *secret = bmig_cli_text(cli, "secret-file");
    int rc = bmig_place_resolve(cli, cli->words[0], bmig_cli_text(cli, "source-format"),
                                bmig_cli_text(cli, "source-filters"), secret, &copy.source, err);
    if (rc == 0)
        rc = bmig_place_resolve(cli, cli->words[1], bmig_cli_text(cli, "format"),
                                bmig_cli_text(cli, "filters"), secret, &copy.target, err);
    if (rc == 0)
        rc = preflight(&copy, err);
    if (rc == 0)
        rc = bmig_session_begin(&session, cli, "copy", err);
    if (rc == 0)
        rc = open_both(&copy, &session, err);
    if (rc == 0)
        rc = run_copy(&copy, &session, err);
    bmig_session_end(&session);
    if (rc < 0)
        undo(&copy, err);
    else
        report(&copy);
    bmig_place_fini(&copy.source);
    bmig_place_fini(&copy.target);
    return rc;
}

/* ---- verify ---- */

static int open_pair(struct bmig_session *session, struct bmig_place places[2],
                     struct bmig_error *err)
{
    struct bmig_place_stat stats[2];
    for (unsigned i = 0; i < 2; i++) {
        int rc = bmig_session_stat(&places[i], &stats[i], err);
        if (rc < 0)
            return rc;
    }
    int rc = check_same(places[0].given, &stats[0], places[1].given, &stats[1], err);
    for (unsigned i = 0; rc == 0 && i < 2; i++) {
        struct bmig_open_options options = bmig_session_options(&places[i], false, false);
        rc = bmig_session_open(session, i, &places[i], &options, err);
    }
    if (rc == 0 && session->disks[1]->size_bytes < session->disks[0]->size_bytes)
        rc = bmig_error_set(
            err, BMIG_FAILED, 0, "different: '%.200s' has only %" PRIu64 " bytes, not %" PRIu64,
            places[1].given, session->disks[1]->size_bytes, session->disks[0]->size_bytes);
    return rc;
}

static int compare(struct bmig_cli *cli, struct bmig_session *session, struct bmig_place places[2],
                   struct bmig_error *err)
{
    struct bmig_transfer_options options = {.bandwidth_bytes_per_s =
                                                bmig_cli_number(cli, "bandwidth", 0),
                                            .progress = bmig_session_progress,
                                            .user = session,
                                            .stop = session->stop};
    uint64_t first = UINT64_MAX, different = 0, size = session->disks[0]->size_bytes;
    char text[32];
    int rc = bmig_compare(session->loop, session->pool, session->disks[0], session->disks[1],
                          &options, &first, &different, err);
    bmig_painter_clear(&session->painter);
    if (rc < 0)
        return rc;
    bool equal = first == UINT64_MAX;
    if (cli->json) {
        json_t *answer =
            json_pack("{s:o,s:o,s:b,s:I,s:I}", "a", bmig_output_json_text(places[0].given), "b",
                      bmig_output_json_text(places[1].given), "equal", equal, "size_bytes",
                      (json_int_t)size, "bytes_different", (json_int_t)different);
        uint64_t read =
            session->disks[0]->stats.bytes[BMIG_READ] + session->disks[1]->stats.bytes[BMIG_READ];
        json_object_set_new(answer, "bytes_read", json_integer((json_int_t)read));
        json_object_set_new(answer, "first_difference",
                            equal ? json_null() : json_integer((json_int_t)first));
        bmig_output_json(stdout, answer);
    } else if (equal) {
        printf("equal: all of %s\n", bmig_output_size(text, sizeof(text), size));
    }
    if (equal)
        return 0;
    return bmig_error_set(
        err, BMIG_FAILED, 0,
        "different: '%.150s' and '%.150s' differ first at byte %" PRIu64 ", in %s altogether",
        places[0].given, places[1].given, first, bmig_output_size(text, sizeof(text), different));
}

int bmig_cli_verify(struct bmig_cli *cli, struct bmig_error *err)
{
    struct bmig_place places[2] = {0};
    struct bmig_session session = {0};
    const char *secret = bmig_cli_text(cli, "secret-file");
    int rc = bmig_place_resolve(cli, cli->words[0], bmig_cli_text(cli, "format"), NULL, secret,
                                &places[0], err);
    if (rc == 0)
        rc = bmig_place_resolve(cli, cli->words[1], bmig_cli_text(cli, "other-format"), NULL,
                                secret, &places[1], err);
    if (rc == 0)
        rc = bmig_session_begin(&session, cli, "verify", err);
    if (rc == 0)
        rc = open_pair(&session, places, err);
    if (rc == 0)
        rc = compare(cli, &session, places, err);
    bmig_session_end(&session);
    bmig_place_fini(&places[0]);
    bmig_place_fini(&places[1]);
    return rc;
}
