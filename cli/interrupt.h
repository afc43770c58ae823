/*
 * interrupt.h - Ctrl-C as a question instead of an end, for commands that have something to finish.
 */
#ifndef VV_CLI_INTERRUPT_H
#define VV_CLI_INTERRUPT_H

#include <stdbool.h>
#include <stdint.h>

/* From now on SIGINT and SIGTERM are remembered, and cut system calls short; a second one ends the process as
 * if nobody had asked. */
void vv_interrupt_catch(void);

bool vv_interrupted(void);

/* Sleep until then, in vv_clock_mono_ns(), or until an interruption. */
void vv_sleep_until(uint64_t deadline_ns);

#endif
