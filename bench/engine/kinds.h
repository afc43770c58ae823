/*
 * kinds.h - the stores, each in its store_<name>.c.
 */
#ifndef VV_BENCH_KINDS_H
#define VV_BENCH_KINDS_H

#include "bench/engine/store.h"

extern const store_kind store_varve;
extern const store_kind store_leveldb;
extern const store_kind store_lmdb;
extern const store_kind store_rocksdb;
extern const store_kind store_device;

#endif
