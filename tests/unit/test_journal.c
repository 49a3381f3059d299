/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The journal under every I/O failure: each operation that SQLite does on its files fails once, and
 * then for ever, and what the journal said of the outcome must be what a later daemon reads.
 */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "blockmig/daemon/daemon_volume.h"
#include "blockmig/daemon/job.h"
#include "blockmig/daemon/journal.h"

/* ---- a VFS that fails its nth operation ---- */

static struct {
    long count, fail_at; /* 0: never */
    bool for_ever;
    int code;
} plan;

static bool hit(void)
{
    plan.count++;
    return plan.fail_at &&
           (plan.for_ever ? plan.count >= plan.fail_at : plan.count == plan.fail_at);
}

struct file {
    sqlite3_file base;
    sqlite3_file *real;
};

#define REAL(f) (((struct file *)(f))->real)

static int f_close(sqlite3_file *f)
{
    int rc = REAL(f)->pMethods->xClose(REAL(f));
    sqlite3_free(REAL(f));
    return rc;
}

static int f_read(sqlite3_file *f, void *data, int n, sqlite3_int64 offset)
{
    return hit() ? SQLITE_IOERR_READ : REAL(f)->pMethods->xRead(REAL(f), data, n, offset);
}

static int f_write(sqlite3_file *f, const void *data, int n, sqlite3_int64 offset)
{
    return hit() ? plan.code : REAL(f)->pMethods->xWrite(REAL(f), data, n, offset);
}

static int f_truncate(sqlite3_file *f, sqlite3_int64 size)
{
    return hit() ? SQLITE_IOERR_TRUNCATE : REAL(f)->pMethods->xTruncate(REAL(f), size);
}

static int f_sync(sqlite3_file *f, int flags)
{
    return hit() ? SQLITE_IOERR_FSYNC : REAL(f)->pMethods->xSync(REAL(f), flags);
}

static int f_size(sqlite3_file *f, sqlite3_int64 *size)
{
    return hit() ? SQLITE_IOERR_FSTAT : REAL(f)->pMethods->xFileSize(REAL(f), size);
}

static int f_lock(sqlite3_file *f, int lock)
{
    return hit() ? SQLITE_IOERR_LOCK : REAL(f)->pMethods->xLock(REAL(f), lock);
}

static int f_unlock(sqlite3_file *f, int lock)
{
    return REAL(f)->pMethods->xUnlock(REAL(f), lock);
}

static int f_reserved(sqlite3_file *f, int *result)
{
    return REAL(f)->pMethods->xCheckReservedLock(REAL(f), result);
}

static int f_control(sqlite3_file *f, int op, void *argument)
{
    return REAL(f)->pMethods->xFileControl(REAL(f), op, argument);
}

static int f_sector(sqlite3_file *f)
{
    return REAL(f)->pMethods->xSectorSize(REAL(f));
}

static int f_traits(sqlite3_file *f)
{
    return REAL(f)->pMethods->xDeviceCharacteristics(REAL(f));
}

static const sqlite3_io_methods methods = {
    .iVersion = 1,
    .xClose = f_close,
    .xRead = f_read,
    .xWrite = f_write,
    .xTruncate = f_truncate,
    .xSync = f_sync,
    .xFileSize = f_size,
    .xLock = f_lock,
    .xUnlock = f_unlock,
    .xCheckReservedLock = f_reserved,
    .xFileControl = f_control,
    .xSectorSize = f_sector,
    .xDeviceCharacteristics = f_traits,
};

static sqlite3_vfs *real_vfs, faulty_vfs;

static int v_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *f, int flags, int *out)
{
    struct file *file = (struct file *)f;
    file->base.pMethods = NULL;
    if (hit())
        return SQLITE_CANTOPEN;
    file->real = sqlite3_malloc(real_vfs->szOsFile);
    ck_assert_ptr_nonnull(file->real);
    int rc = real_vfs->xOpen(real_vfs, name, file->real, flags, out);
    if (rc == SQLITE_OK)
        file->base.pMethods = &methods;
    else
        sqlite3_free(file->real);
    return rc;
}

/* Deleting the rollback journal is the commit, and syncing its folder makes it durable: either may
 * fail, and the second fails with the first done. */
static int v_delete(sqlite3_vfs *vfs, const char *name, int sync_folder)
{
    if (hit())
        return SQLITE_IOERR_DELETE;
    int rc = real_vfs->xDelete(real_vfs, name, sync_folder);
    return rc == SQLITE_OK && sync_folder && hit() ? SQLITE_IOERR_DIR_FSYNC : rc;
}

static int v_access(sqlite3_vfs *vfs, const char *name, int flags, int *result)
{
    return hit() ? SQLITE_IOERR_ACCESS : real_vfs->xAccess(real_vfs, name, flags, result);
}

static int v_full_pathname(sqlite3_vfs *vfs, const char *name, int n, char *out)
{
    return real_vfs->xFullPathname(real_vfs, name, n, out);
}

static void use_faulty_vfs(void)
{
    sqlite3_initialize();
    real_vfs = sqlite3_vfs_find(NULL);
    faulty_vfs = *real_vfs;
    faulty_vfs.zName = "faulty";
    faulty_vfs.szOsFile = sizeof(struct file);
    faulty_vfs.xOpen = v_open;
    faulty_vfs.xDelete = v_delete;
    faulty_vfs.xAccess = v_access;
    faulty_vfs.xFullPathname = v_full_pathname;
    if (sqlite3_vfs_register(&faulty_vfs, 1) != SQLITE_OK)
        abort();
}

/* ---- a folder and a manager with a volume that is being moved ---- */

static char folder[64], path[96];

static void setup(void)
{
    plan.fail_at = 0;
    /* Thousands of syncs: in memory where there is such a place. */
    strcpy(folder, access("/dev/shm", W_OK) ? "/tmp/blockmig-journal.XXXXXX"
                                            : "/dev/shm/blockmig-journal.XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/journal.db", folder);
}

static void teardown(void)
{
    char name[128];
    unlink(path);
    snprintf(name, sizeof name, "%s-journal", path);
    unlink(name);
    rmdir(folder);
}

static struct bmig_replica from = {.id = 1, .uri = (char *)"file:///a", .format = (char *)"raw"},
                           to = {.id = 2, .uri = (char *)"file:///b", .format = (char *)"raw"};
static struct bmig_job job;
static struct bmig_manager manager;

/* A volume at epoch 1 on replica 1 and a job that is about to switch it to replica 2. */
static void fill(void)
{
    struct bmig_error err = {0};
    memset(&manager, 0, sizeof manager);
    ck_assert_msg(bmig_journal_open(&manager.journal, path, &err) == 0, "%s", err.message);
    job = (struct bmig_job){.id = 1,
                            .state = BMIG_JOB_SWITCHING,
                            .phase = BMIG_PHASE_SWITCH,
                            .volume = (char *)"v",
                            .source = (char *)"a",
                            .target = (char *)"b",
                            .from = from,
                            .to = to};
    ck_assert_int_eq(bmig_journal_begin(manager.journal, &err), 0);
    int rc = bmig_replica_insert(&manager, &from, "v", "primary", &err);
    if (rc == 0)
        rc = bmig_journal_run(manager.journal, &err,
                              "INSERT INTO volumes VALUES ('v', 512, 1, 1, 0, 1, '[]', 0)", "");
    ck_assert_msg(bmig_journal_end(manager.journal, rc, &err) == 0, "%s", err.message);
    ck_assert_msg(bmig_job_record_new_locked(&manager, &job, &err) == 0, "%s", err.message);
}

static void release(void)
{
    bmig_journal_close(manager.journal);
}

static int64_t number(struct bmig_journal *journal, const char *sql)
{
    int64_t value = -1;
    struct bmig_error err = {0};
    ck_assert_msg(bmig_journal_number(journal, -1, &value, &err, sql, "") == 0, "%s", err.message);
    return value;
}

/* What a daemon that starts now reads: the epoch, and that all of the flip's rows agree with it. */
static int64_t read_back(void)
{
    struct bmig_journal *journal;
    struct bmig_error err = {0};
    plan.fail_at = 0;
    ck_assert_msg(bmig_journal_open(&journal, path, &err) == 0, "%s", err.message);
    int64_t epoch = number(journal, "SELECT epoch FROM volumes");
    ck_assert_int_eq(number(journal, "SELECT primary_replica FROM volumes"), epoch);
    ck_assert_int_eq(number(journal, "SELECT id FROM replicas WHERE role = 'primary'"), epoch);
    ck_assert_int_eq(number(journal, "SELECT flipped FROM jobs"), epoch == 2);
    ck_assert_int_eq(number(journal, "SELECT phase = 'undo-window' FROM jobs"), epoch == 2);
    bmig_journal_close(journal);
    return epoch;
}

static long operations_of_a_flip(void)
{
    struct bmig_error err = {0};
    fill();
    plan.count = plan.fail_at = 0;
    ck_assert_int_eq(bmig_job_record_flip_locked(&manager, &job, 2, false, &err), 0);
    long count = plan.count;
    release();
    ck_assert_int_eq(read_back(), 2);
    teardown();
    setup();
    return count;
}

static unsigned failed_and_written, failed_and_not_written;

/* fail_at on the flip; the plan is lifted before settling where it is not for ever. */
static void flip_with_failure(long n, bool for_ever, int code)
{
    struct bmig_error err = {0}, settle = {0};
    bool written = false;
    fill();
    plan.count = 0;
    plan.fail_at = n;
    plan.for_ever = for_ever;
    plan.code = code;
    int rc = bmig_job_record_flip_locked(&manager, &job, 2, false, &err);
    if (rc == 0)
        written = true; /* what failed did not matter, or nothing did */
    else
        ck_assert(err.kind != BMIG_OK && err.message[0]);
    bool known = rc == 0 || bmig_job_settle_flip_locked(&manager, &job, 2, &written, &settle) == 0;
    if (!known) {
        /* In doubt until the disk is well again: then the answer must be the durable truth. */
        plan.fail_at = 0;
        ck_assert_msg(bmig_job_settle_flip_locked(&manager, &job, 2, &written, &settle) == 0, "%s",
                      settle.message);
    }
    plan.fail_at = 0;
    failed_and_written += rc != 0 && written;
    failed_and_not_written += rc != 0 && !written;
    release();
    ck_assert_msg(read_back() == (written ? 2 : 1), "operation %ld: said %d", n, written);
    teardown();
    setup();
}

START_TEST(a_new_journal_has_the_newest_schema)
{
    fill();
    ck_assert_int_eq(number(manager.journal, "PRAGMA user_version"), BMIG_JOURNAL_VERSION);
    ck_assert_int_eq(number(manager.journal, "PRAGMA synchronous"), 3);
    ck_assert_int_eq(number(manager.journal, "PRAGMA foreign_keys"), 1);
    release();
    ck_assert_int_eq(read_back(), 1);
}
END_TEST

START_TEST(the_outcome_of_a_flip_is_the_truth_when_one_operation_fails)
{
    long count = operations_of_a_flip();
    ck_assert_int_gt(count, 10);
    for (long n = 1; n <= count; n++) {
        flip_with_failure(n, false, SQLITE_IOERR_WRITE);
        flip_with_failure(n, false, SQLITE_FULL);
    }
    /* Both sides of the doubt were met: an error does not mean that nothing was written. */
    ck_assert_uint_gt(failed_and_written, 0);
    ck_assert_uint_gt(failed_and_not_written, 0);
}
END_TEST

START_TEST(the_outcome_of_a_flip_is_the_truth_when_all_operations_fail_from_one_on)
{
    long count = operations_of_a_flip();
    for (long n = 1; n <= count; n++)
        flip_with_failure(n, true, SQLITE_IOERR_WRITE);
}
END_TEST

/* No settling: the daemon is killed right behind the failure. The rows agree with each other,
 * whichever it is. */
START_TEST(a_daemon_that_dies_in_a_flip_leaves_all_of_it_or_none)
{
    long count = operations_of_a_flip();
    for (long n = 1; n <= count; n++) {
        struct bmig_error err = {0};
        fill();
        plan.count = 0;
        plan.fail_at = n;
        plan.for_ever = true;
        plan.code = SQLITE_IOERR_WRITE;
        int rc = bmig_job_record_flip_locked(&manager, &job, 2, false, &err);
        release();
        int64_t epoch = read_back();
        ck_assert(rc != 0 || epoch == 2);
        teardown();
        setup();
    }
}
END_TEST

START_TEST(a_flip_of_another_epoch_changes_nothing)
{
    struct bmig_error err = {0};
    fill();
    ck_assert_int_ne(bmig_job_record_flip_locked(&manager, &job, 3, false, &err), 0);
    ck_assert_int_eq(err.code, ESTALE);
    release();
    ck_assert_int_eq(read_back(), 1);
}
END_TEST

START_TEST(a_flip_back_makes_the_undo_records_valid_again)
{
    struct bmig_error err = {0};
    fill();
    job.to.made = true;
    job.phase = BMIG_PHASE_PREFLIGHT;
    manager.events = bmig_events_new();
    ck_assert_int_eq(bmig_job_record_phase_locked(&manager, &job, BMIG_PHASE_CREATE_TARGET,
                                                  BMIG_JOB_SWITCHING, &err),
                     0);
    struct bmig_phase_record *records;
    unsigned count;
    ck_assert_int_eq(bmig_job_undo_list_locked(&manager, 1, &records, &count, &err), 0);
    ck_assert_uint_eq(count, 1);
    ck_assert(!records[0].done);
    bmig_job_undo_list_free(records, count);
    ck_assert_int_eq(bmig_job_record_flip_locked(&manager, &job, 2, false, &err), 0);
    ck_assert_int_eq(bmig_job_undo_list_locked(&manager, 1, &records, &count, &err), 0);
    ck_assert_uint_eq(count, 0);
    bmig_job_undo_list_free(records, count);
    ck_assert_int_eq(bmig_job_record_flip_locked(&manager, &job, 3, true, &err), 0);
    ck_assert_int_eq(bmig_job_undo_list_locked(&manager, 1, &records, &count, &err), 0);
    ck_assert_uint_eq(count, 1);
    bmig_job_undo_list_free(records, count);
    ck_assert_int_eq(number(manager.journal, "SELECT primary_replica FROM volumes"), 1);
    bmig_events_free(manager.events);
    release();
}
END_TEST

START_TEST(a_newer_journal_is_refused)
{
    struct bmig_error err = {0};
    struct bmig_journal *journal;
    fill();
    ck_assert_int_eq(bmig_journal_run(manager.journal, &err, "PRAGMA user_version = 9", ""), 0);
    release();
    ck_assert_int_ne(bmig_journal_open(&journal, path, &err), 0);
    ck_assert_ptr_nonnull(strstr(err.message, "newer"));
}
END_TEST

START_TEST(a_file_that_is_no_journal_is_refused_and_left_alone)
{
    struct bmig_error err = {0};
    struct bmig_journal *journal;
    static const char text[] =
        "this is somebody's letter, and it is long enough to be read as a header, "
        "a hundred bytes and then some more of it";
    int fd = open(path, O_WRONLY | O_CREAT, 0600);
    ck_assert_int_eq(write(fd, text, sizeof text), sizeof text);
    close(fd);
    ck_assert_int_ne(bmig_journal_open(&journal, path, &err), 0);
    struct stat st;
    ck_assert_int_eq(stat(path, &st), 0);
    ck_assert_int_eq(st.st_size, sizeof text);
}
END_TEST

START_TEST(a_journal_that_cannot_be_written_is_refused_at_once)
{
    struct bmig_error err = {0};
    struct bmig_journal *journal;
    fill();
    release();
    plan.count = 0;
    plan.fail_at = 1;
    plan.for_ever = true;
    plan.code = SQLITE_FULL;
    ck_assert_int_ne(bmig_journal_open(&journal, path, &err), 0);
    plan.fail_at = 0;
    ck_assert_int_eq(read_back(), 1);
}
END_TEST

START_TEST(a_damaged_journal_is_refused)
{
    struct bmig_error err = {0};
    struct bmig_journal *journal;
    char junk[4096];
    fill();
    release();
    memset(junk, 0x5a, sizeof junk);
    int fd = open(path, O_WRONLY);
    ck_assert_int_eq(pwrite(fd, junk, sizeof junk, 4096), sizeof junk);
    close(fd);
    ck_assert_int_ne(bmig_journal_open(&journal, path, &err), 0);
    ck_assert_ptr_nonnull(strstr(err.message, "journal"));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("journal");
    TCase *tcase = tcase_create("all");
    use_faulty_vfs();
    tcase_set_timeout(tcase, 120);
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, a_new_journal_has_the_newest_schema);
    tcase_add_test(tcase, the_outcome_of_a_flip_is_the_truth_when_one_operation_fails);
    tcase_add_test(tcase, the_outcome_of_a_flip_is_the_truth_when_all_operations_fail_from_one_on);
    tcase_add_test(tcase, a_daemon_that_dies_in_a_flip_leaves_all_of_it_or_none);
    tcase_add_test(tcase, a_flip_of_another_epoch_changes_nothing);
    tcase_add_test(tcase, a_flip_back_makes_the_undo_records_valid_again);
    tcase_add_test(tcase, a_newer_journal_is_refused);
    tcase_add_test(tcase, a_file_that_is_no_journal_is_refused_and_left_alone);
    tcase_add_test(tcase, a_journal_that_cannot_be_written_is_refused_at_once);
    tcase_add_test(tcase, a_damaged_journal_is_refused);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
