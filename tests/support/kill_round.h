/*
 * kill_round.h - a process that is killed in the middle of its work.
 */
#ifndef VV_TESTS_KILL_ROUND_H
#define VV_TESTS_KILL_ROUND_H

#include <stdint.h>

/*
 * In a child process, `work(fd, start)` writes start, start + 1, ... as 8 bytes each to fd when it has done
 * that, and never returns. When `count` of them have come it is killed. Returns the last that it has told,
 * also if that was read after the kill; start - 1 if there was none. Aborts the test if it ended by itself.
 */
uint64_t vv_kill_round(void (*work)(int fd, uint64_t start), uint64_t start, uint64_t count);

#endif
