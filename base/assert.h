/*
 * assert.h - checks of the programmer's own promises.
 *
 * VV_ASSERT is cheap and stays on in release: a broken invariant in a storage engine must stop the process
 * before it reaches the disk. VV_DCHECK may walk whole structures and exists in debug builds only.
 * Neither is ever applied to bytes from disk, input from the network or the result of an I/O: those return a
 * status.
 */
#ifndef VV_BASE_ASSERT_H
#define VV_BASE_ASSERT_H

#include "base/compiler.h"

void vv_assert_failed(const char *expr, const char *file, int line) VV_NORETURN;

#define VV_ASSERT(expr) (VV_LIKELY(expr) ? (void)0 : vv_assert_failed(#expr, __FILE__, __LINE__))

#ifdef VV_DEBUG
#define VV_DCHECK(expr) VV_ASSERT(expr)
#else
#define VV_DCHECK(expr) ((void)sizeof(expr))
#endif

#endif
