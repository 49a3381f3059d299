/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Where a daemon keeps its things, and the lock that keeps a second one out.
 */
#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "blockmig/daemon/paths.h"

static char root[64];

static void setup(void)
{
    strcpy(root, "/tmp/blockmig-paths.XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(root));
}

static void teardown(void)
{
    static const char *const names[] = {"state/lock", "state/log", "state", "run", "etc", ""};
    char path[128];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(path, sizeof path, "%s/%s", root, names[i]);
        remove(path);
    }
}

START_TEST(the_system_has_its_folders_and_a_root_its_own)
{
    struct bmig_paths paths;
    ck_assert_int_eq(bmig_paths_init(&paths, NULL, NULL), 0);
    ck_assert_str_eq(paths.socket, "/run/blockmig/blockmigd.sock");
    ck_assert_str_eq(paths.journal, "/var/lib/blockmig/journal.db");
    bmig_paths_fini(&paths);
    ck_assert_int_eq(bmig_paths_init(&paths, "/r//", NULL), 0);
    ck_assert_str_eq(paths.socket, "/r/run/blockmigd.sock");
    ck_assert_str_eq(paths.etc, "/r/etc");
    bmig_paths_fini(&paths);
}
END_TEST

START_TEST(a_relative_root_is_made_absolute)
{
    struct bmig_paths paths;
    char folder[64];
    ck_assert_int_eq(chdir("/tmp"), 0);
    ck_assert_int_eq(bmig_paths_init(&paths, "r", NULL), 0);
    snprintf(folder, sizeof folder, "/tmp/r/state");
    ck_assert_str_eq(paths.state, folder);
    bmig_paths_fini(&paths);
}
END_TEST

START_TEST(a_root_whose_socket_fits_exactly_is_taken_and_one_byte_more_is_refused)
{
    struct bmig_paths paths;
    struct bmig_error err = {0};
    size_t room = sizeof(((struct sockaddr_un *)0)->sun_path) - 1 - strlen("/run/blockmigd.sock");
    char text[128];
    memset(text, 'x', sizeof text);
    text[0] = '/';
    text[room] = '\0';
    ck_assert_int_eq(bmig_paths_init(&paths, text, &err), 0);
    bmig_paths_fini(&paths);
    text[room] = 'x';
    text[room + 1] = '\0';
    ck_assert_int_ne(bmig_paths_init(&paths, text, &err), 0);
    ck_assert_int_eq(err.kind, BMIG_USAGE);
    ck_assert_int_ne(bmig_paths_init(&paths, "", NULL), 0);
}
END_TEST

START_TEST(a_volume_whose_sockets_would_not_fit_is_refused)
{
    struct bmig_paths paths;
    struct bmig_error err = {0};
    char name[129];
    memset(name, 'v', 128);
    name[128] = '\0';
    ck_assert_int_eq(bmig_paths_init(&paths, "/r", NULL), 0);
    ck_assert_int_ne(bmig_paths_check_volume(&paths, name, &err), 0);
    ck_assert_int_eq(err.kind, BMIG_USAGE);
    size_t room =
        sizeof(((struct sockaddr_un *)0)->sun_path) - 1 - strlen("/r/run/volume-.control");
    name[room] = '\0';
    ck_assert_int_eq(bmig_paths_check_volume(&paths, name, NULL), 0);
    char *control = bmig_paths_control(&paths, name);
    ck_assert_uint_eq(strlen(control), sizeof(((struct sockaddr_un *)0)->sun_path) - 1);
    free(control);
    bmig_paths_fini(&paths);
}
END_TEST

START_TEST(folders_are_made_for_their_owner_alone)
{
    struct bmig_paths paths;
    struct stat st;
    ck_assert_int_eq(bmig_paths_init(&paths, root, NULL), 0);
    ck_assert_int_eq(bmig_paths_make(&paths, NULL), 0);
    ck_assert_int_eq(bmig_paths_make(&paths, NULL), 0);
    ck_assert_int_eq(stat(paths.state, &st), 0);
    ck_assert_uint_eq(st.st_mode & 0777, 0700);
    ck_assert_int_eq(stat(paths.run, &st), 0);
    ck_assert_uint_eq(st.st_mode & 0777, 0700);
    bmig_paths_fini(&paths);
}
END_TEST

START_TEST(a_file_in_the_place_of_a_folder_is_refused)
{
    struct bmig_paths paths;
    struct bmig_error err = {0};
    char path[128];
    snprintf(path, sizeof path, "%s/state", root);
    fclose(fopen(path, "w"));
    ck_assert_int_eq(bmig_paths_init(&paths, root, NULL), 0);
    ck_assert_int_ne(bmig_paths_make(&paths, &err), 0);
    ck_assert_int_eq(err.code, ENOTDIR);
    bmig_paths_fini(&paths);
}
END_TEST

START_TEST(a_second_holder_of_the_lock_is_refused_and_told_the_pid_of_the_first)
{
    struct bmig_paths paths;
    struct bmig_error err = {0};
    int fd, other;
    char pid[32];
    ck_assert_int_eq(bmig_paths_init(&paths, root, NULL), 0);
    ck_assert_int_eq(bmig_paths_make(&paths, NULL), 0);
    ck_assert_int_eq(bmig_paths_lock(&paths, &fd, NULL), 0);
    ck_assert_int_ne(bmig_paths_lock(&paths, &other, &err), 0);
    ck_assert_int_eq(err.kind, BMIG_DENIED);
    snprintf(pid, sizeof pid, "pid %ld,", (long)getpid());
    ck_assert_msg(strstr(err.message, pid) != NULL, "%s", err.message);
    close(fd);
    ck_assert_int_eq(bmig_paths_lock(&paths, &fd, NULL), 0);
    close(fd);
    bmig_paths_fini(&paths);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("paths");
    TCase *tcase = tcase_create("all");
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, the_system_has_its_folders_and_a_root_its_own);
    tcase_add_test(tcase, a_relative_root_is_made_absolute);
    tcase_add_test(tcase, a_root_whose_socket_fits_exactly_is_taken_and_one_byte_more_is_refused);
    tcase_add_test(tcase, a_volume_whose_sockets_would_not_fit_is_refused);
    tcase_add_test(tcase, folders_are_made_for_their_owner_alone);
    tcase_add_test(tcase, a_file_in_the_place_of_a_folder_is_refused);
    tcase_add_test(tcase, a_second_holder_of_the_lock_is_refused_and_told_the_pid_of_the_first);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
