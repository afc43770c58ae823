/*
 * engine_tap.h - the real engine, with taps between the server and engine/varve.h: a test can hold commits,
 * make calls fail, and count what is pinned.
 *
 * The linker leads the calls of the server here first (--wrap, tests/CMakeLists.txt). Process-wide; Criterion
 * gives each test its own process.
 */
#ifndef VV_TESTS_ENGINE_TAP_H
#define VV_TESTS_ENGINE_TAP_H

#include <stdbool.h>

#include "engine/varve.h"

/* Hold: writes queue up in front of the engine and nothing is answered. */
void engine_tap_hold(bool hold);

/* Wait until `count` writes are queued. Only while held. */
void engine_tap_wait_queued(size_t count);

/* Writes that are queued. */
size_t engine_tap_queued(void);

/* Every write from now on ends like this, on another thread and without effect; code 0: works again. */
void engine_tap_fail_writes(varve_status st);

/* As varve_write_async() does with what it refuses: `done` runs before the call returns. */
void engine_tap_refuse_at_once(varve_status st);

/* Hold: gets queue up in front of the engine, as those do that wait for the disk; let go, they are answered
 * on another thread. */
void engine_tap_hold_gets(bool hold);
void engine_tap_wait_queued_gets(size_t count);

/* Every get from now on. */
void engine_tap_fail_gets(varve_status st);

/* The next time a log cursor has come to the end, and before its reader hears of it, this key is written,
 * durably, with itself as the value. */
void engine_tap_write_at_end(const char *key);

/*
 * After `skip` more looks at varve_visible_lsn(), the next finds what is visible, and before its caller hears
 * of it this key is written on another thread, durably, with itself as the value. What that tells of is
 * waited for too, but not for long: the caller may be in its way.
 */
void engine_tap_write_behind_look(const char *key, size_t skip);

/* Values handed out and not yet released. */
size_t engine_tap_pinned(void);

/* varve_stats_get() says so from now on. */
void engine_tap_say_log_failed(void);

/* Hold: varve_take_snapshot() waits before it begins. Waiting for it: until one does. */
void engine_tap_hold_snapshots(bool hold);
void engine_tap_wait_held_snapshot(void);

/* Each from now on ends like this; code 0: works again. */
void engine_tap_fail_snapshots(varve_status st);

/* varve_apply() from now on ends like this, without effect; code 0: works again. Waiting: until so many have
 * failed since. */
void engine_tap_fail_applies(varve_status st);
void engine_tap_wait_failed_applies(size_t count);

/* The one that was opened last. */
varve_db *engine_tap_db(void);

/* The next file of an import is opened so much later, as on a slow disk. */
void engine_tap_delay_import(uint64_t ns);

/* varve_close() calls so far. */
size_t engine_tap_closed(void);

#endif
