/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The requests of the transmission phase: parsing, the rules, the errors.
 */
#include "blockmig/worker/nbd_command.h"

#include <errno.h>

bool bmig_nbds_command_parse(struct bmig_nbds_command *command, const uint8_t *data)
{
    command->flags = nbd_get_u16(data + 4);
    command->type = nbd_get_u16(data + 6);
    command->cookie = nbd_get_u64(data + 8);
    command->offset = nbd_get_u64(data + 16);
    command->length = nbd_get_u32(data + 24);
    return nbd_get_u32(data) == NBD_REQUEST_MAGIC;
}

/* "Command flags": FUA is valid with every command; the others with the one they are documented
 * for. */
static unsigned flags_of(unsigned type, const struct bmig_nbds_session *session)
{
    switch (type) {
    case NBD_CMD_READ:
        return NBD_CMD_FLAG_FUA | (session->structured ? NBD_CMD_FLAG_DF : 0);
    case NBD_CMD_WRITE_ZEROES:
        return NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO;
    case NBD_CMD_BLOCK_STATUS:
        return NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_REQ_ONE;
    default:
        return NBD_CMD_FLAG_FUA;
    }
}

static bool is_known(unsigned type)
{
    switch (type) {
    case NBD_CMD_READ:
    case NBD_CMD_WRITE:
    case NBD_CMD_FLUSH:
    case NBD_CMD_TRIM:
    case NBD_CMD_WRITE_ZEROES:
    case NBD_CMD_BLOCK_STATUS:
        return true;
    default:
        return false;
    }
}

static int refuse(const char **why, const char *words, int error)
{
    *why = words;
    return -error;
}

/* "Request types" and "Error values", in this order: what no export could do, what this one can't,
 * what does not fit into it. */
int bmig_nbds_command_check(const struct bmig_nbds_command *command,
                            const struct bmig_nbds_session *session, const char **why)
{
    unsigned type = command->type;
    bool changes = type == NBD_CMD_WRITE || type == NBD_CMD_TRIM || type == NBD_CMD_WRITE_ZEROES;

    if (!is_known(type))
        return refuse(why, "unknown command", EINVAL);
    if (command->flags & ~flags_of(type, session))
        return refuse(why, "flag not valid with this command", EINVAL);
    if (changes && session->read_only)
        return refuse(why, "the export is read-only", EPERM);
    if (type == NBD_CMD_FLUSH)
        return command->offset || command->length ? refuse(why, "FLUSH takes no range", EINVAL) : 0;
    if (type == NBD_CMD_BLOCK_STATUS && !session->allocation)
        return refuse(why, "no metadata context was selected", EINVAL);
    if (type == NBD_CMD_BLOCK_STATUS && command->length == 0)
        return refuse(why, "an empty range has no status", EINVAL);
    if (command->offset > session->size_bytes ||
        command->length > session->size_bytes - command->offset)
        return refuse(why, "beyond the end of the export",
                      type == NBD_CMD_WRITE || type == NBD_CMD_WRITE_ZEROES ? ENOSPC : EINVAL);
    if ((type == NBD_CMD_READ || type == NBD_CMD_WRITE) &&
        command->length > session->max_data_bytes)
        return refuse(why, "longer than the maximum block size", EINVAL);
    if (command->flags & NBD_CMD_FLAG_DF && command->length > BMIG_NBDS_DF_BYTES)
        return refuse(why, "too long for one chunk", EOVERFLOW);
    return 0;
}

uint32_t bmig_nbds_error_number(int error)
{
    switch (error < 0 ? -error : error) {
    case EPERM:
    case EACCES:
    case EROFS:
        return NBD_EPERM;
    case ENOMEM:
        return NBD_ENOMEM;
    case EINVAL:
        return NBD_EINVAL;
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
        return NBD_ENOSPC;
    case EOVERFLOW:
        return NBD_EOVERFLOW;
    case ENOTSUP:
        return NBD_ENOTSUP;
    case ESHUTDOWN:
        return NBD_ESHUTDOWN;
    default:
        return NBD_EIO;
    }
}
