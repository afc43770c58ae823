#include <criterion/criterion.h>

#include "base/compiler.h"
#include "base/stack.h"
#include "base/sync.h"

typedef struct item {
    vv_stack_node node;
    uint32_t pusher;
    uint32_t number;
} item;

static vv_stack stack;

static item *item_of(vv_stack_node *node) {
    return node ? VV_CONTAINER_OF(node, item, node) : NULL;
}

Test(stack, all_come_in_the_order_of_their_pushes) {
    item items[5];
    vv_stack_init(&stack);
    cr_assert(vv_stack_empty(&stack));
    cr_assert_null(vv_stack_take_all(&stack));
    for (uint32_t i = 0; i < 5; i++) {
        items[i].number = i;
        cr_assert_eq(vv_stack_push(&stack, &items[i].node), i == 0, "only the first finds it empty");
        cr_assert_not(vv_stack_empty(&stack));
    }
    vv_stack_node *node = vv_stack_take_all(&stack);
    for (uint32_t i = 0; i < 5; i++, node = node->next)
        cr_assert_eq(item_of(node)->number, i);
    cr_assert_null(node);
    cr_assert(vv_stack_empty(&stack));
    cr_assert(vv_stack_push(&stack, &items[0].node), "empty again");
}

enum { PUSHERS = 4, ITEMS = 20000 };
static item items[PUSHERS][ITEMS];
static _Atomic uint32_t wake;

static void push_all(void *arg) {
    uint32_t pusher = (uint32_t)(uintptr_t)arg;
    for (uint32_t i = 0; i < ITEMS; i++) {
        items[pusher][i].pusher = pusher;
        items[pusher][i].number = i;
        if (vv_stack_push(&stack, &items[pusher][i].node)) {
            atomic_fetch_add(&wake, 1);
            vv_futex_wake(&wake, 1);
        }
    }
}

/* The taker sleeps whenever it finds nothing: a push that failed to say "it was empty" would hang this. */
Test(stack, many_pushers_and_one_taker_lose_nothing, .timeout = 60) {
    pthread_t threads[PUSHERS];
    uint32_t next[PUSHERS] = {0};
    vv_stack_init(&stack);
    for (uint32_t i = 0; i < PUSHERS; i++)
        cr_assert(vv_ok(vv_thread_start(&threads[i], "pusher", push_all, (void *)(uintptr_t)i)));
    for (uint32_t taken = 0; taken < PUSHERS * ITEMS;) {
        uint32_t ticket = atomic_load(&wake);
        vv_stack_node *node = vv_stack_take_all(&stack);
        if (!node)
            vv_futex_wait(&wake, ticket);
        for (; node; node = node->next, taken++) {
            item *it = item_of(node);
            cr_assert_eq(it->number, next[it->pusher], "each pusher's items come in its order");
            next[it->pusher]++;
        }
    }
    for (uint32_t i = 0; i < PUSHERS; i++)
        vv_thread_join(threads[i]);
    cr_assert(vv_stack_empty(&stack));
}
