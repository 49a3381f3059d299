/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The table of verbs: what can be said on the command line, and what each says of itself.
 */
#include "cli/cli.h"

const struct bmig_cli_flag bmig_cli_global_flags[] = {
    {"root", BMIG_CLI_TEXT, false, "DIR",
     "DIR holds etc/, run/ and state/ (or BLOCKMIG_ROOT); else the system's"},
    {"json", BMIG_CLI_SWITCH, false, NULL,
     "data as one JSON document on stdout, an error as one on stderr"},
    {"help", BMIG_CLI_SWITCH, false, NULL, "this text, or a verb's"},
    {"version", BMIG_CLI_SWITCH, false, NULL, "the version"},
    {0},
};

#define FORMAT(about)                                                                              \
    {                                                                                              \
        "format", BMIG_CLI_FORMAT, false, "F", about                                               \
    }
#define BANDWIDTH                                                                                  \
    {                                                                                              \
        "bandwidth", BMIG_CLI_RATE, false, "RATE",                                                 \
            "most to copy with, as 200MiB/s or 1Gbit/s (0: no cap)"                                \
    }
#define MAX_LATENCY                                                                                \
    {                                                                                              \
        "max-latency", BMIG_CLI_DURATION, false, "TIME",                                           \
            "bound on the guest's p99 latency, as 5ms (0: from what it was before)"                \
    }
#define SECRET                                                                                     \
    {                                                                                              \
        "secret-file", BMIG_CLI_TEXT, false, "FILE",                                               \
            "file with the secret of a URI that names a user (iSCSI CHAP)"                         \
    }
#define FILTERS                                                                                    \
    {                                                                                              \
        "filters", BMIG_CLI_TEXT, false, "LIST",                                                   \
            "for trials: filters in front of the image, as 'delay:?write=5ms'"                     \
    }

static const struct bmig_cli_flag repo_add_flags[] = {
    {"max-jobs", BMIG_CLI_COUNT, false, "N",
     "moves that may read or write it at once; more of them queue"},
    SECRET,
    {0},
};

static const struct bmig_cli_flag volume_create_flags[] = {
    {"repo", BMIG_CLI_TEXT, true, "REPO", "where its image is made"},
    {"size", BMIG_CLI_SIZE, true, "SIZE", "as 10G"},
    FORMAT("format of the image; raw if not given"),
    {0},
};

static const struct bmig_cli_flag volume_import_flags[] = {
    {"format", BMIG_CLI_FORMAT, true, "F", "format of the image; never guessed from what it holds"},
    {0},
};

static const struct bmig_cli_flag volume_start_flags[] = {
    {"print", BMIG_CLI_TEXT, false, "uri|xml",
     "what to print: the NBD URI, or libvirt's <disk>; uri if not given"},
    {"listen", BMIG_CLI_TEXT, false, "URI",
     "serve at nbd+unix:///NAME?socket=PATH or nbd://HOST:PORT/NAME"},
    {0},
};

static const struct bmig_cli_flag volume_stop_flags[] = {
    {"force", BMIG_CLI_SWITCH, false, NULL, "even while clients are connected: they are cut off"},
    {0},
};

static const struct bmig_cli_flag move_flags[] = {
    FORMAT("format at the destination; as it is, if not given"),
    BANDWIDTH,
    MAX_LATENCY,
    {"no-verify", BMIG_CLI_SWITCH, false, NULL, "switch without comparing both replicas first"},
    {"hold", BMIG_CLI_SWITCH, false, NULL,
     "stay in sync and switch only when told: 'blockmig switch N'"},
    {"undo-window", BMIG_CLI_DURATION, false, "TIME",
     "keep the old replica in step this long after the switch, for 'rollback'"},
    {"keep-source", BMIG_CLI_SWITCH, false, NULL, "leave the old image where it is in the end"},
    {"detach", BMIG_CLI_SWITCH, false, NULL, "print the job's number and return at once"},
    {"dry-run", BMIG_CLI_SWITCH, false, NULL, "check everything and say what would be done"},
    {0},
};

static const struct bmig_cli_flag migrate_flags[] = {
    {"to", BMIG_CLI_TEXT, false, "REPO", "destination repository of every disk"},
    {"disk", BMIG_CLI_TEXT, false, "LIST", "a destination for each disk: vda=REPO,vdb=keep"},
    {"dry-run", BMIG_CLI_SWITCH, false, NULL, "check everything and say what would be done"},
    {0},
};

static const struct bmig_cli_flag wait_flags[] = {
    {"timeout", BMIG_CLI_DURATION, false, "TIME",
     "give up waiting after this long (exit 8; the job goes on)"},
    {0},
};

static const struct bmig_cli_flag set_flags[] = {BANDWIDTH, MAX_LATENCY, {0}};

static const struct bmig_cli_flag copy_flags[] = {
    FORMAT("format of DEST; by the ending of its name, or raw"),
    {"source-format", BMIG_CLI_FORMAT, false, "F",
     "format of SRC; by the ending of its name, or raw"},
    {"verify", BMIG_CLI_SWITCH, false, NULL, "compare both afterwards"},
    BANDWIDTH,
    {"force", BMIG_CLI_SWITCH, false, NULL,
     "write over an existing file of the same size, in place"},
    SECRET,
    FILTERS,
    {"source-filters", BMIG_CLI_TEXT, false, "LIST", "for trials: the same in front of SRC"},
    {0},
};

static const struct bmig_cli_flag verify_flags[] = {
    FORMAT("format of A; by the ending of its name, or raw"),
    {"other-format", BMIG_CLI_FORMAT, false, "F", "format of B; by the ending of its name, or raw"},
    BANDWIDTH,
    SECRET,
    {0},
};

static const struct bmig_cli_flag image_flags[] = {
    FORMAT("format of IMAGE; by the ending of its name, or raw"),
    SECRET,
    FILTERS,
    {0},
};

#define ATTACHED                                                                                   \
    "It stays to show the progress; Ctrl-C detaches and the job goes on. Exit: 0 done, 1 "         \
    "failed,\n"                                                                                    \
    "4 cancelled, 8 if you detached before the end.\n"
#define IMAGES                                                                                     \
    "An image is a path, REPO:IMAGE (asks the daemon where that is), or a URI:\n"                  \
    "  nfs://HOST/EXPORT/PATH?uid=&gid=&nfsport=&mountport=    "                                   \
    "iscsi://[USER@]HOST[:PORT]/IQN/LUN\n"                                                         \
    "  nbd://HOST[:PORT]/NAME    nbd+unix:///NAME?socket=PATH\n"                                   \
    "A file with a colon in its name is written ./NAME or with its whole path.\n"

#define REPOSITORIES "Repositories: named places for disks"
#define VOLUMES      "Volumes: disks that blockmig serves to guests"
#define MOVES        "Moves and their jobs"
#define IMAGES_GROUP "Images, without a daemon"
#define UPKEEP       "Upkeep"

#define JOB_VERB(name, summary, example)                                                           \
    {                                                                                              \
        name, "JOB", MOVES, summary, NULL, example, true, NULL, bmig_cli_job_verb                  \
    }

const struct bmig_cli_verb bmig_cli_verbs[] = {
    {"repo add", "NAME URI", REPOSITORIES, "name a folder, export, target or server",
     "URI is a folder's path, nfs://HOST/EXPORT[/FOLDER], iscsi://HOST[:PORT]/IQN or "
     "nbd://HOST[:PORT].\n",
     "repo add fast nfs://10.0.0.5/export/vms", true, repo_add_flags, bmig_cli_repo_add},
    {"repo list", "", REPOSITORIES, "all repositories", NULL, "repo list --json", true, NULL,
     bmig_cli_repo_list},
    {"repo show", "NAME", REPOSITORIES, "one repository", NULL, "repo show fast", true, NULL,
     bmig_cli_repo_show},
    {"repo remove", "NAME", REPOSITORIES, "forget a repository that no volume uses",
     "Nothing in the place itself is touched.\n", "repo remove old", true, NULL,
     bmig_cli_repo_remove},

    {"volume create", "NAME", VOLUMES, "make a new, empty volume", NULL,
     "volume create web1 --repo fast --size 10G", true, volume_create_flags,
     bmig_cli_volume_create},
    {"volume import", "NAME URI", VOLUMES, "take an existing image as a volume, in place", NULL,
     "volume import web1 /srv/vms/web1.raw --format raw", true, volume_import_flags,
     bmig_cli_volume_import},
    {"volume start", "NAME", VOLUMES, "serve a volume over NBD",
     "Prints where: a URI, or with --print xml the <disk> for libvirt's domain XML.\n",
     "volume start web1 --print xml", true, volume_start_flags, bmig_cli_volume_start},
    {"volume stop", "NAME", VOLUMES, "stop serving a volume", NULL, "volume stop web1", true,
     volume_stop_flags, bmig_cli_volume_stop},
    {"volume list", "", VOLUMES, "all volumes", NULL, "volume list", true, NULL,
     bmig_cli_volume_list},
    {"volume show", "NAME", VOLUMES, "one volume, with what its guest does", NULL,
     "volume show web1", true, NULL, bmig_cli_volume_show},
    {"volume delete", "NAME", VOLUMES, "delete a stopped volume and its image", NULL,
     "volume delete web1", true, NULL, bmig_cli_volume_delete},

    {"move", "VOLUME DEST", MOVES, "move a volume while its guest uses it",
     "DEST is a repository, REPO:IMAGE or a URI. The guest reads and writes all along; if anything "
     "fails,\n"
     "the volume is where it was.\n" ATTACHED,
     "move web1 fast --bandwidth 200MiB/s --undo-window 10m", true, move_flags, bmig_cli_move},
    {"migrate", "DOMAIN HOSTURI", MOVES,
     "move a VM with its disks to another host (not in this build)", NULL,
     "migrate web1 qemu+ssh://host2/system --dry-run", true, migrate_flags, bmig_cli_migrate},
    {"jobs", "", MOVES, "all jobs", NULL, "jobs --json", true, NULL, bmig_cli_jobs},
    {"job", "JOB", MOVES, "one job", NULL, "job 7", true, NULL, bmig_cli_job},
    {"watch", "JOB", MOVES, "follow a job to its end",
     ATTACHED "With --json: one JSON object a line, each the job as it is then.\n", "watch 7", true,
     NULL, bmig_cli_watch},
    {"wait", "JOB", MOVES, "wait quietly for a job's end",
     "Exit: 0 done, 1 failed, 4 cancelled, 8 the time ran out.\n", "wait 7 --timeout 10m", true,
     wait_flags, bmig_cli_wait},
    JOB_VERB("pause", "stop a job's copying; guest writes are mirrored on", "pause 7"),
    JOB_VERB("resume", "let a paused or failed copy go on", "resume 7"),
    JOB_VERB("cancel", "end a job; the volume stays where it is", "cancel 7"),
    JOB_VERB("switch", "let a held job switch to the new replica", "switch 7"),
    JOB_VERB("rollback", "in the undo window: go back to the old replica, with no loss",
             "rollback 7"),
    JOB_VERB("commit", "end the undo window now", "commit 7"),
    {"set", "JOB", MOVES, "change a running job's limits", NULL, "set 7 --bandwidth 50MiB/s", true,
     set_flags, bmig_cli_set},

    {"copy", "SRC DEST", IMAGES_GROUP, "copy an image that no guest writes to",
     IMAGES "A DEST that does not exist is made, and removed again if the copy fails. Devices, "
            "LUNs and NBD\n"
            "exports are written over; an existing file only with --force.\n",
     "copy disk.raw nfs://10.0.0.5/export/vms/disk.raw --verify", false, copy_flags, bmig_cli_copy},
    {"verify", "A B", IMAGES_GROUP, "compare two images, byte for byte as a guest sees them",
     IMAGES "Exit: 0 equal, 1 different. Where B is larger, its rest must be zero.\n",
     "verify disk.raw iscsi://10.0.0.6/iqn.2003-01.org.example:t1/1", false, verify_flags,
     bmig_cli_verify},
    {"info", "IMAGE", IMAGES_GROUP, "what an image is and what its place can do", IMAGES,
     "info nbd+unix:///disk?socket=/run/nbd.sock", false, image_flags, bmig_cli_info},
    {"check", "IMAGE", IMAGES_GROUP, "read all of an image and report what can't be read",
     IMAGES "Exit: 0 all of it reads, 1 some does not.\n", "check disk.raw", false, image_flags,
     bmig_cli_check},

    {"recover", "", UPKEEP, "finish or undo what a crash interrupted",
     "Safe to run again and again.\n", "recover", true, NULL, bmig_cli_actions},
    {"cleanup", "", UPKEEP, "remove leftovers of ended jobs", NULL, "cleanup", true, NULL,
     bmig_cli_actions},
    {0},
};
