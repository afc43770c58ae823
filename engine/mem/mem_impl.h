/*
 * mem_impl.h - the constructors of the memtable types. Included inside engine/mem only.
 */
#ifndef VV_ENGINE_MEM_MEM_IMPL_H
#define VV_ENGINE_MEM_MEM_IMPL_H

#include "engine/mem/memtable.h"

/* Fill in everything but the common head's counters and references. NO_MEMORY. */
vv_status vv_skiplist_create(uint64_t seed, vv_memtable **out) VV_CHECKED;

#endif
