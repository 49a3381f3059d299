/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * A replica's description: copied, compared, written down.
 */
#include <stdlib.h>
#include <string.h>

#include "blockmig/daemon/manager.h"
#include "blockmig/daemon/text.h"

void bmig_replica_fini(struct bmig_replica *replica)
{
    free(replica->repo);
    free(replica->image);
    free(replica->uri);
    free(replica->format);
    free(replica->identity);
    *replica = (struct bmig_replica){0};
}

void bmig_replica_copy(struct bmig_replica *to, const struct bmig_replica *from)
{
    struct bmig_replica copy = {
        .id = from->id,
        .repo = bmig_text_copy(from->repo),
        .image = bmig_text_copy(from->image),
        .uri = bmig_text_copy(from->uri),
        .format = bmig_text_copy(from->format),
        .identity = bmig_text_copy(from->identity),
        .made = from->made,
    };
    bmig_replica_fini(to);
    *to = copy;
}

json_t *bmig_replica_json(const struct bmig_replica *replica)
{
    return json_pack("{s:I, s:s?, s:s?, s:s?, s:s?, s:s?, s:b}", "id", (json_int_t)replica->id,
                     "repo", replica->repo, "image", replica->image, "uri", replica->uri, "format",
                     replica->format, "identity", replica->identity, "made", (int)replica->made);
}

static char *member(const json_t *json, const char *key)
{
    return bmig_text_copy(json_string_value(json_object_get(json, key)));
}

void bmig_replica_from_json(struct bmig_replica *replica, const json_t *json)
{
    bmig_replica_fini(replica);
    replica->id = json_integer_value(json_object_get(json, "id"));
    replica->repo = member(json, "repo");
    replica->image = member(json, "image");
    replica->uri = member(json, "uri");
    replica->format = member(json, "format");
    replica->identity = member(json, "identity");
    replica->made = json_is_true(json_object_get(json, "made"));
}

char *bmig_replica_words(const struct bmig_replica *replica)
{
    if (replica->repo && replica->image)
        return bmig_text("%s:%s", replica->repo, replica->image);
    return bmig_text("%s", replica->repo ? replica->repo : replica->uri);
}

bool bmig_replica_same(const struct bmig_replica *a, const struct bmig_replica *b)
{
    if (strcmp(a->uri, b->uri) == 0)
        return true;
    return a->identity && b->identity && *a->identity && strcmp(a->identity, b->identity) == 0;
}
