/*
 * seeds_server.c - seeds of what comes over the network or from files that people write.
 */
#include "tests/fuzz/seeds.h"

void seeds_server(void) {}
