/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Sense: one table from SCSI status and sense data (SPC-4 4.5.6, annex F) to what becomes of the
 * request.
 */
#include <errno.h>

#include "backends/iscsi.h"

enum { ANY = 0x100 }; /* as an ASCQ: every one of its ASC */

struct rule {
    int key, asc, ascq;
    enum bmig_iscsi_verdict verdict;
    int code;
};

/* The first that matches holds; a key's last rule has asc ANY. */
static const struct rule rules[] = {
    {SCSI_SENSE_RECOVERED_ERROR, ANY, ANY, BMIG_ISCSI_DONE, 0},

    {SCSI_SENSE_NOT_READY, 0x04, 0x03, BMIG_ISCSI_FAIL, EIO}, /* manual intervention required */
    {SCSI_SENSE_NOT_READY, 0x04, 0x0b, BMIG_ISCSI_FAIL, EIO}, /* port in standby */
    {SCSI_SENSE_NOT_READY, 0x04, 0x0c, BMIG_ISCSI_FAIL, EIO}, /* port unavailable */
    {SCSI_SENSE_NOT_READY, 0x04, ANY, BMIG_ISCSI_LATER, EIO},
    {SCSI_SENSE_NOT_READY, 0x3a, ANY, BMIG_ISCSI_FAIL, ENOMEDIUM},
    {SCSI_SENSE_NOT_READY, ANY, ANY, BMIG_ISCSI_FAIL, EIO},

    {SCSI_SENSE_ILLEGAL_REQUEST, 0x20, ANY, BMIG_ISCSI_UNSUPPORTED,
     EOPNOTSUPP}, /* operation code */
    {SCSI_SENSE_ILLEGAL_REQUEST, 0x24, ANY, BMIG_ISCSI_UNSUPPORTED, EOPNOTSUPP}, /* field in CDB */
    {SCSI_SENSE_ILLEGAL_REQUEST, 0x26, ANY, BMIG_ISCSI_UNSUPPORTED, EOPNOTSUPP}, /* in parameters */
    {SCSI_SENSE_ILLEGAL_REQUEST, 0x1a, ANY, BMIG_ISCSI_UNSUPPORTED, EOPNOTSUPP}, /* list length */
    {SCSI_SENSE_ILLEGAL_REQUEST, 0x21, ANY, BMIG_ISCSI_RECHECK, EIO}, /* LBA out of range */
    {SCSI_SENSE_ILLEGAL_REQUEST, 0x25, ANY, BMIG_ISCSI_FAIL, ENXIO},  /* no such LUN */
    {SCSI_SENSE_ILLEGAL_REQUEST, 0x27, ANY, BMIG_ISCSI_FAIL, EROFS},
    {SCSI_SENSE_ILLEGAL_REQUEST, ANY, ANY, BMIG_ISCSI_FAIL, EIO},

    {SCSI_SENSE_UNIT_ATTENTION, 0x2a, 0x09, BMIG_ISCSI_RECHECK, EIO}, /* capacity data changed */
    {SCSI_SENSE_UNIT_ATTENTION, 0x3f, 0x03, BMIG_ISCSI_RECHECK, EIO}, /* inquiry data changed */
    {SCSI_SENSE_UNIT_ATTENTION, 0x3f, 0x05, BMIG_ISCSI_RECHECK, EIO}, /* identifier changed */
    {SCSI_SENSE_UNIT_ATTENTION, ANY, ANY, BMIG_ISCSI_AGAIN, EIO},

    {SCSI_SENSE_DATA_PROTECTION, 0x27, 0x07, BMIG_ISCSI_FAIL, ENOSPC}, /* space allocation failed */
    {SCSI_SENSE_DATA_PROTECTION, ANY, ANY, BMIG_ISCSI_FAIL, EROFS},

    {SCSI_SENSE_COMMAND_ABORTED, 0x10, ANY, BMIG_ISCSI_FAIL, EIO}, /* protection information */
    {SCSI_SENSE_COMMAND_ABORTED, ANY, ANY, BMIG_ISCSI_AGAIN, EIO},
};

static enum bmig_iscsi_verdict judge_sense(const struct scsi_sense *sense, int *code)
{
    *code = EIO;
    /* A deferred error is of an earlier command, one that was answered with success. */
    if (sense->error_type == SCSI_SENSE_FIXED_DEFERRED_ERRORS ||
        sense->error_type == SCSI_SENSE_DESCRIPTOR_DEFERRED_ERRORS)
        return BMIG_ISCSI_FAIL;
    int asc = sense->ascq >> 8 & 0xff, ascq = sense->ascq & 0xff;
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++) {
        const struct rule *rule = &rules[i];
        if (rule->key == (int)sense->key && (rule->asc == ANY || rule->asc == asc) &&
            (rule->ascq == ANY || rule->ascq == ascq)) {
            *code = rule->code;
            return rule->verdict;
        }
    }
    return BMIG_ISCSI_FAIL;
}

enum bmig_iscsi_verdict bmig_iscsi_judge(int scsi_status, const struct scsi_sense *sense, int *code)
{
    switch (scsi_status) {
    case SCSI_STATUS_GOOD:
    case SCSI_STATUS_CONDITION_MET:
        *code = 0;
        return BMIG_ISCSI_DONE;
    case SCSI_STATUS_CHECK_CONDITION:
        return judge_sense(sense, code);
    case SCSI_STATUS_BUSY:
    case SCSI_STATUS_TASK_SET_FULL:
    case SCSI_STATUS_ACA_ACTIVE:
        *code = EBUSY;
        return BMIG_ISCSI_LATER;
    case SCSI_STATUS_TASK_ABORTED:
        *code = EIO;
        return BMIG_ISCSI_AGAIN;
    case SCSI_STATUS_RESERVATION_CONFLICT:
        /* Another host holds the LUN. Trying again is the user's decision, not ours. */
        *code = EBUSY;
        return BMIG_ISCSI_FAIL;
    default:
        *code = ETIMEDOUT;
        return BMIG_ISCSI_LOST;
    }
}

bool bmig_iscsi_cache_lost(int scsi_status, const struct scsi_sense *sense)
{
    /* POWER ON OCCURRED and DEVICE INTERNAL RESET. 29h/00h is no sign: targets send it for a new
     * login. */
    return scsi_status == SCSI_STATUS_CHECK_CONDITION && sense->key == SCSI_SENSE_UNIT_ATTENTION &&
           (sense->ascq == SCSI_SENSE_ASCQ_POWER_ON_OCCURED ||
            sense->ascq == SCSI_SENSE_ASCQ_DEVICE_INTERNAL_RESET);
}
