/*
 * compiler.h - the few compiler attributes that the code base uses, under one name each.
 */
#ifndef VV_BASE_COMPILER_H
#define VV_BASE_COMPILER_H

#define VV_CHECKED                       __attribute__((warn_unused_result))
#define VV_PRINTF(fmt_index, args_index) __attribute__((format(printf, fmt_index, args_index)))
#define VV_NORETURN                      __attribute__((noreturn, cold))
#define VV_COLD                          __attribute__((cold))
#define VV_ALWAYS_INLINE                 inline __attribute__((always_inline))

#define VV_LIKELY(x)   __builtin_expect(!!(x), 1)
#define VV_UNLIKELY(x) __builtin_expect(!!(x), 0)

#define VV_CACHE_LINE_BYTES 64
#define VV_CACHE_ALIGNED    _Alignas(VV_CACHE_LINE_BYTES)

#define VV_ARRAY_COUNT(a) (sizeof(a) / sizeof((a)[0]))

/* The object of type `type` whose member `member` is at `ptr`. */
#define VV_CONTAINER_OF(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

#define VV_MIN(a, b) ((a) < (b) ? (a) : (b))
#define VV_MAX(a, b) ((a) > (b) ? (a) : (b))

#if defined(__SANITIZE_ADDRESS__)
#define VV_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define VV_ASAN 1
#endif
#endif
#if defined(__SANITIZE_THREAD__)
#define VV_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define VV_TSAN 1
#endif
#endif

/*
 * Tell ThreadSanitizer of a hand-over that it can't see, because it goes through a library that is not
 * instrumented: what precedes VV_HAND_OVER(p) in one thread happens before what follows VV_TAKE_OVER(p) in
 * the other. Nothing in other builds: the library itself must order the two.
 */
#ifdef VV_TSAN
#include <sanitizer/tsan_interface.h>
#define VV_HAND_OVER(p) __tsan_release(p)
#define VV_TAKE_OVER(p) __tsan_acquire(p)
#else
#define VV_HAND_OVER(p) ((void)(p))
#define VV_TAKE_OVER(p) ((void)(p))
#endif

#endif
