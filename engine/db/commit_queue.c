#include "engine/db/commit_queue.h"

#define GROUP_MASK ((uintptr_t)(VV_COMMIT_GROUPS - 1))

void vv_commit_queue_init(vv_commit_queue *q) {
    atomic_init(&q->top, 0);
    atomic_init(&q->writer_sleeps, 0);
    atomic_init(&q->nudged, 0);
    atomic_init(&q->awaited, 0);
    for (uint32_t i = 0; i < VV_COMMIT_GROUPS; i++) {
        atomic_init(&q->groups[i].word, 0);
        atomic_init(&q->groups[i].sleepers, 0);
    }
}

static void rouse(vv_commit_queue *q) {
    if (atomic_exchange_explicit(&q->writer_sleeps, 0, memory_order_seq_cst))
        vv_futex_wake(&q->writer_sleeps, 1);
}

/* Is this push the one that ends the writer's sleep? A writer that gathers is woken by the last of those that
 * it waits for. A push that meets the beginning or the end of that may count wrongly; then the writer wakes
 * too soon, or when its time is over: it never gathers without a limit. */
static bool is_awaited(vv_commit_queue *q) {
    return atomic_load_explicit(&q->awaited, memory_order_relaxed) <= 1 ||
           atomic_fetch_sub_explicit(&q->awaited, 1, memory_order_relaxed) <= 1;
}

uint32_t vv_commit_queue_push(vv_commit_queue *q, vv_write *w) {
    uintptr_t top = atomic_load_explicit(&q->top, memory_order_relaxed);
    uintptr_t flag = w->fn ? VV_COMMIT_HAS_CALLBACKS : 0;
    do {
        w->next = (vv_write *)(top & VV_COMMIT_NODE_MASK);
        /* Pairs with the exchange in take(); seq_cst against writer_sleeps below: either the writer that goes
         * to sleep sees this push, or this thread sees that it sleeps. */
    } while (!atomic_compare_exchange_weak_explicit(&q->top, &top,
                                                    (uintptr_t)w | (top & ~VV_COMMIT_NODE_MASK) | flag,
                                                    memory_order_seq_cst, memory_order_relaxed));
    if (atomic_load_explicit(&q->writer_sleeps, memory_order_seq_cst) && is_awaited(q))
        rouse(q);
    return (uint32_t)(top & GROUP_MASK);
}

void vv_commit_queue_nudge(vv_commit_queue *q) {
    /* seq_cst on both, as for a push. */
    atomic_store_explicit(&q->nudged, 1, memory_order_seq_cst);
    if (atomic_load_explicit(&q->writer_sleeps, memory_order_seq_cst))
        rouse(q);
}

vv_write *vv_commit_queue_take(vv_commit_queue *q, uint32_t *group_out) {
    /* Only the single writer changes the group number, so that it can't change between load and exchange. */
    uintptr_t top = atomic_load_explicit(&q->top, memory_order_relaxed);
    if ((top & VV_COMMIT_NODE_MASK) == 0)
        return NULL;
    top = atomic_exchange_explicit(&q->top, (top + 1) & GROUP_MASK, memory_order_seq_cst);
    *group_out = (uint32_t)(top & GROUP_MASK);
    vv_write *w = (vv_write *)(top & VV_COMMIT_NODE_MASK);
    vv_write *fifo = NULL;
    while (w) {
        vv_write *next = w->next;
        w->next = fifo;
        fifo = w;
        w = next;
    }
    return fifo;
}

uint32_t vv_commit_queue_count(vv_commit_queue *q, uint32_t most) {
    /* acquire: pairs with every push, as each goes on with the release sequence of those before it. Nobody
     * else takes them away. */
    uintptr_t top = atomic_load_explicit(&q->top, memory_order_acquire);
    uint32_t count = 0;
    for (const vv_write *w = (const vv_write *)(top & VV_COMMIT_NODE_MASK); w && count < most; w = w->next)
        count++;
    return count;
}

void vv_commit_queue_wait(vv_commit_queue *q, vv_write *w, uint32_t group) {
    if (atomic_load_explicit(&w->done, memory_order_acquire))
        return;
    /* seq_cst pairs with wake(): either it sees this sleeper, or this thread sees the word moved on. */
    atomic_fetch_add_explicit(&q->groups[group].sleepers, 1, memory_order_seq_cst);
    for (;;) {
        uint32_t seen = atomic_load_explicit(&q->groups[group].word, memory_order_seq_cst);
        if (atomic_load_explicit(&w->done, memory_order_acquire))
            break;
        vv_futex_wait(&q->groups[group].word, seen);
    }
    atomic_fetch_sub_explicit(&q->groups[group].sleepers, 1, memory_order_relaxed);
}

void vv_commit_queue_wake(vv_commit_queue *q, uint32_t group) {
    atomic_fetch_add_explicit(&q->groups[group].word, 1, memory_order_seq_cst);
    if (atomic_load_explicit(&q->groups[group].sleepers, memory_order_seq_cst))
        vv_futex_wake(&q->groups[group].word, UINT32_MAX);
}

void vv_commit_queue_sleep(vv_commit_queue *q, uint64_t timeout_ns) {
    atomic_store_explicit(&q->writer_sleeps, 1, memory_order_seq_cst);
    if (vv_commit_queue_empty(q) && !atomic_load_explicit(&q->nudged, memory_order_seq_cst)) {
        if (timeout_ns == UINT64_MAX)
            vv_futex_wait(&q->writer_sleeps, 1);
        else
            vv_futex_wait_for(&q->writer_sleeps, 1, timeout_ns);
    }
    atomic_store_explicit(&q->writer_sleeps, 0, memory_order_seq_cst);
}

void vv_commit_queue_gather(vv_commit_queue *q, uint32_t count, uint64_t timeout_ns) {
    uint32_t have = vv_commit_queue_count(q, count);
    if (have == count)
        return;
    atomic_store_explicit(&q->awaited, (int32_t)(count - have), memory_order_relaxed);
    atomic_store_explicit(&q->writer_sleeps, 1, memory_order_seq_cst);
    /* Those that came before they could see that it sleeps. */
    uint32_t more = vv_commit_queue_count(q, count) - have;
    atomic_fetch_sub_explicit(&q->awaited, (int32_t)more, memory_order_relaxed);
    if (have + more < count && !atomic_load_explicit(&q->nudged, memory_order_seq_cst))
        vv_futex_wait_for(&q->writer_sleeps, 1, timeout_ns);
    atomic_store_explicit(&q->writer_sleeps, 0, memory_order_seq_cst);
    atomic_store_explicit(&q->awaited, 0, memory_order_relaxed);
}
