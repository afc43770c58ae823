/*
 * test_metrics.c - calls are counted where they belong, whatever thread ends them, and nothing is lost.
 */
#include <criterion/criterion.h>
#include <pthread.h>

#include "base/clock.h"
#include "base/compiler.h"
#include "rpc/metrics.h"

#define THREADS 4
#define CALLS   20000

static const vv_rpc_method first[] = {
    {.path = "/a.A/Get", .kind = VV_RPC_UNARY, .access = VV_RPC_READ},
    {.path = "/a.A/Scan", .kind = VV_RPC_SERVER_STREAM, .access = VV_RPC_READ}};
static const vv_rpc_method second[] = {{.path = "/b.B/Put", .kind = VV_RPC_UNARY, .access = VV_RPC_WRITE}};
static const vv_rpc_service services[] = {{.methods = first, .method_count = 2},
                                          {.methods = second, .method_count = 1}};

static vv_metrics *create(void) {
    vv_metrics *m;
    cr_assert(vv_ok(vv_metrics_create(services, VV_ARRAY_COUNT(services), &m)));
    cr_assert_eq(vv_metrics_method_count(m), 4);
    return m;
}

static void end(vv_metrics *m, uint32_t index, vv_rpc_code code, uint64_t us, varve_trace trace) {
    static const vv_rpc_method *const methods[] = {&first[0], &first[1], &second[0], NULL};
    vv_rpc_call call = {.method = methods[index],
                        .method_index = index,
                        .code = code,
                        .arrived_ns = 5000,
                        .received_bytes = 3,
                        .sent_bytes = 7,
                        .trace = trace};
    vv_metrics_ended(m, &call, 5000 + us * VV_NS_PER_US);
}

Test(metrics, a_call_is_counted_under_its_method_and_code) {
    vv_metrics *m = create();
    vv_method_metrics got;
    end(m, 0, VV_RPC_OK, 10, (varve_trace){0});
    end(m, 0, VV_RPC_NOT_FOUND, 1000, (varve_trace){0});
    end(m, 2, VV_RPC_OK, 20, (varve_trace){0});
    end(m, 2, (vv_rpc_code)99, 20, (varve_trace){0});
    end(m, 3, VV_RPC_UNIMPLEMENTED, 1, (varve_trace){0});
    vv_metrics_collect(m, 0, &got);
    cr_assert_eq(got.method, &first[0]);
    cr_assert_eq(got.ended[VV_RPC_OK], 1);
    cr_assert_eq(got.ended[VV_RPC_NOT_FOUND], 1);
    cr_assert_eq(got.received_bytes, 6);
    cr_assert_eq(got.sent_bytes, 14);
    cr_assert_eq(vv_spread_count(&got.us), 2);
    cr_assert_eq(vv_spread_count_to(&got.us, 4), 1);
    cr_assert_eq(got.us.sum, 1010);
    vv_metrics_collect(m, 2, &got);
    cr_assert_eq(got.ended[VV_RPC_OK], 1);
    cr_assert_eq(got.ended[VV_RPC_UNKNOWN], 1, "a code that gRPC does not have");
    vv_metrics_collect(m, 3, &got);
    cr_assert_null(got.method);
    cr_assert_eq(got.ended[VV_RPC_UNIMPLEMENTED], 1);
    vv_metrics_destroy(m);
}

Test(metrics, a_stream_has_no_latency) {
    vv_metrics *m = create();
    vv_method_metrics got;
    end(m, 1, VV_RPC_OK, 1000000, (varve_trace){.memtable_ns = 5});
    vv_metrics_collect(m, 1, &got);
    cr_assert_eq(got.ended[VV_RPC_OK], 1);
    cr_assert_eq(vv_spread_count(&got.us), 0);
    vv_metrics_destroy(m);
}

Test(metrics, phases_are_of_calls_that_the_engine_came_to) {
    static const uint64_t expected[VV_PHASE_COUNT] = {1, 1, 1, 2, 1};
    vv_metrics *m = create();
    end(m, 0, VV_RPC_OK, 1, (varve_trace){.memtable_ns = 2000});
    end(m, 0, VV_RPC_OK, 1, (varve_trace){.memtable_ns = 2000, .block_ns = 9000, .block_reads = 1});
    end(m, 0, VV_RPC_INVALID_ARGUMENT, 1, (varve_trace){0});
    end(m, 2, VV_RPC_OK, 1, (varve_trace){.queue_ns = 1000, .wal_ns = 3000, .memtable_ns = 1});
    end(m, 2, VV_RPC_RESOURCE_EXHAUSTED, 1, (varve_trace){0});
    for (int i = 0; i < VV_PHASE_COUNT; i++) {
        vv_spread_copy got;
        vv_metrics_collect_phase(m, (vv_phase)i, &got);
        cr_assert_eq(vv_spread_count(&got), expected[i], "phase %d", i);
    }
    vv_metrics_destroy(m);
}

static void *end_many(void *m) {
    for (int i = 0; i < CALLS; i++)
        end(m, i % 2 ? 0 : 2, VV_RPC_OK, 1, (varve_trace){0});
    return NULL;
}

Test(metrics, threads_lose_nothing_while_somebody_looks) {
    vv_metrics *m = create();
    pthread_t threads[THREADS];
    vv_method_metrics got = {0};
    uint64_t before = 0;
    for (int i = 0; i < THREADS; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, end_many, m), 0);
    while (before < THREADS * CALLS / 2) {
        vv_metrics_collect(m, 0, &got);
        cr_assert_geq(got.ended[VV_RPC_OK], before, "a counter goes back");
        before = got.ended[VV_RPC_OK];
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    vv_metrics_collect(m, 2, &got);
    cr_assert_eq(got.ended[VV_RPC_OK], THREADS * CALLS / 2);
    cr_assert_eq(vv_spread_count(&got.us), THREADS * CALLS / 2);
    vv_metrics_destroy(m);
}

Test(metrics, a_thread_serves_one_after_the_other) {
    for (uint64_t round = 1; round < 5; round++) {
        vv_metrics *m = create(); /* most likely where the last one was */
        vv_metrics *other = create();
        vv_method_metrics got;
        for (uint64_t i = 0; i < round; i++) {
            end(m, 0, VV_RPC_OK, 1, (varve_trace){0});
            end(other, 2, VV_RPC_OK, 1, (varve_trace){0});
        }
        vv_metrics_collect(m, 0, &got);
        cr_assert_eq(got.ended[VV_RPC_OK], round);
        vv_metrics_collect(m, 2, &got);
        cr_assert_eq(got.ended[VV_RPC_OK], 0);
        vv_metrics_destroy(m);
        vv_metrics_destroy(other);
    }
}
