/*
 * log_format.h - one event as one line, for people or for machines.
 *
 *     text   2026-11-22T14:03:07.123Z INFO  call method=/varve.v1.KV/Put code=OK user=alice us=812
 *     json   {"ts":"2026-11-22T14:03:07.123Z","level":"INFO","event":"call","method":"/varve.v1.KV/Put",...}
 *
 * Whatever bytes a client sends, a line stays one line, and what stands in a value can't pass for a field:
 * in text, a value with other characters than those of names, paths and addresses is quoted, with \" \\ \n \r
 * \t and \xNN for every byte that is not plain ASCII; in JSON, which must be UTF-8, such bytes stay if they
 * are well-formed characters and become U+FFFD if not.
 */
#ifndef VV_RPC_LOG_FORMAT_H
#define VV_RPC_LOG_FORMAT_H

#include "base/log.h"

/* In the order of LOG_FORMAT's choices. */
typedef enum vv_log_format { VV_LOG_FORMAT_TEXT, VV_LOG_FORMAT_JSON } vv_log_format;

/* Room for a line of vv_log() with every byte escaped. */
#define VV_LOG_LINE_BYTES 8192

/*
 * Write the line with its newline into buf and return its length. Fields that don't fit are left out, whole.
 * unix_ms: when it happened.
 */
size_t vv_log_format_line(char buf[VV_LOG_LINE_BYTES], vv_log_format format, uint64_t unix_ms,
                          vv_log_level level, const char *event, const vv_log_field *fields, size_t count);

#endif
