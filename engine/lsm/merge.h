/*
 * merge.h - many cursors as one, in internal order, both ways.
 */
#ifndef VV_ENGINE_LSM_MERGE_H
#define VV_ENGINE_LSM_MERGE_H

#include "engine/kv/iter.h"

/*
 * A cursor over all entries of `children`, no two of which hold the same entry. Takes the children over, also
 * when it fails; the array itself stays the caller's. A child's failure ends the whole: nothing behind a hole
 * is shown. NO_MEMORY.
 */
vv_status vv_merge_create(vv_iter *const *children_take, uint32_t count, vv_iter **out) VV_CHECKED;

#endif
