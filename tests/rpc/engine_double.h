/*
 * engine_double.h - an engine in memory behind engine/varve.h, whose commits a test can hold and make fail.
 *
 * It has one database, which lives until the process ends, so that a test may close and open it.
 */
#ifndef VV_TESTS_ENGINE_DOUBLE_H
#define VV_TESTS_ENGINE_DOUBLE_H

#include "engine/varve.h"

/* Hold: writes queue up and nothing is answered. */
void engine_double_hold(bool hold);

/* Wait until `count` writes are queued. Only while held. */
void engine_double_wait_queued(size_t count);

/* Every write from now on ends like this, without effect; code 0: works again. */
void engine_double_fail_writes(varve_status st);

/* As varve_write_async() does with what it refuses: `done` runs before the call returns. */
void engine_double_refuse_at_once(varve_status st);

/* Every get from now on. */
void engine_double_fail_gets(varve_status st);

/* Values handed out and not yet released. */
size_t engine_double_pinned(void);

/* varve_close() calls so far. */
size_t engine_double_closed(void);

#endif
