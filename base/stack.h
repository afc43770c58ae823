/*
 * stack.h - a lock-free stack with many pushers and one taker that takes everything at once.
 *
 * R. K. Treiber, "Systems Programming: Coping with Parallelism", IBM RJ 5118 (1986). Taking the whole list
 * with one exchange instead of popping nodes makes it immune to the ABA problem.
 */
#ifndef VV_BASE_STACK_H
#define VV_BASE_STACK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

typedef struct vv_stack_node {
    struct vv_stack_node *next;
} vv_stack_node;

typedef struct vv_stack {
    _Atomic(vv_stack_node *) top;
} vv_stack;

static inline void vv_stack_init(vv_stack *s) {
    atomic_init(&s->top, NULL);
}

/* Any thread. True: the stack was empty, so that the pusher is the one to wake the taker. */
static inline bool vv_stack_push(vv_stack *s, vv_stack_node *node) {
    vv_stack_node *top = atomic_load_explicit(&s->top, memory_order_relaxed);
    do {
        node->next = top;
        /* seq_cst, not just release (pairs with the taker's exchange): sleepers order it against their flag.
         */
    } while (!atomic_compare_exchange_weak_explicit(&s->top, &top, node, memory_order_seq_cst,
                                                    memory_order_relaxed));
    return top == NULL;
}

static inline bool vv_stack_empty(vv_stack *s) {
    return atomic_load_explicit(&s->top, memory_order_seq_cst) == NULL;
}

/* One taker at a time. All nodes in the order of their pushes, NULL when there are none. */
static inline vv_stack_node *vv_stack_take_all(vv_stack *s) {
    vv_stack_node *node = atomic_exchange_explicit(&s->top, NULL, memory_order_seq_cst);
    vv_stack_node *fifo = NULL;
    while (node) {
        vv_stack_node *next = node->next;
        node->next = fifo;
        fifo = node;
        node = next;
    }
    return fifo;
}

#endif
