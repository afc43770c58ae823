#include <criterion/criterion.h>

#include "base/checksum.h"
#include "base/compiler.h"

/*
 * The test vectors of the xxHash project for XXH3 with 64 bits, over its own pseudo-random buffer. Files that
 * were written with one version of the library must be readable with every other, so these never change.
 */
#define PRIME32 UINT64_C(2654435761)
#define PRIME64 UINT64_C(11400714785074694797)

static const struct {
    size_t bytes;
    uint64_t seed;
    uint64_t checksum;
} vectors[] = {
    {0, 0, 0x2D06800538D394C2},    {0, PRIME64, 0xA8A6B918B2F0364A},
    {1, 0, 0xC44BDFF4074EECDB},    {1, PRIME64, 0x032BE332DD766EF8},
    {6, 0, 0x27B56A84CD2D7325},    {6, PRIME64, 0x84589C116AB59AB9},
    {12, 0, 0xA713DAF0DFBB77E7},   {12, PRIME64, 0xE7303E1B2336DE0E},
    {24, 0, 0xA3FE70BF9D3510EB},   {24, PRIME64, 0x850E80FC35BDD690},
    {48, 0, 0x397DA259ECBA1F11},   {48, PRIME64, 0xADC2CBAA44ACC616},
    {80, 0, 0xBCDEFBBB2C47C90A},   {80, PRIME64, 0xC6DD0CB699532E73},
    {195, 0, 0xCD94217EE362EC3A},  {195, PRIME64, 0xBA68003D370CB3D9},
    {403, 0, 0xCDEB804D65C6DEA4},  {403, PRIME64, 0x6259F6ECFD6443FD},
    {512, 0, 0x617E49599013CB6B},  {512, PRIME64, 0x3CE457DE14C27708},
    {2048, 0, 0xDD59E2C3A5F038E0}, {2048, PRIME64, 0x66F81670669ABABC},
    {2240, 0, 0x6E73A90539CF2948}, {2240, PRIME64, 0x757BA8487D1B5247},
    {2367, 0, 0xCB37AEB9E5D361ED}, {2367, PRIME64, 0xD2DB3415B942B42A},
};

static uint8_t buffer[2367];

static void fill_buffer(void) {
    uint64_t state = PRIME32;
    for (size_t i = 0; i < sizeof buffer; i++) {
        buffer[i] = (uint8_t)(state >> 56);
        state *= PRIME64;
    }
}

Test(checksum, is_xxh3_by_its_own_test_vectors, .init = fill_buffer) {
    for (size_t i = 0; i < VV_ARRAY_COUNT(vectors); i++) {
        uint64_t found = vv_checksum(buffer, vectors[i].bytes, vectors[i].seed);
        cr_assert_eq(found, vectors[i].checksum, "%zu bytes, seed %lx: %lx", vectors[i].bytes,
                     vectors[i].seed, found);
    }
}

Test(checksum, the_hash_of_a_key_is_xxh3_without_a_seed, .init = fill_buffer) {
    for (size_t i = 0; i < VV_ARRAY_COUNT(vectors); i += 2)
        cr_assert_eq(vv_hash_key(buffer, vectors[i].bytes), vectors[i].checksum);
}

Test(checksum, every_single_bit_matters, .init = fill_buffer) {
    for (size_t bytes = 1; bytes <= 300; bytes += 23) {
        uint64_t before = vv_checksum(buffer, bytes, 7);
        for (size_t bit = 0; bit < bytes * 8; bit++) {
            buffer[bit / 8] ^= (uint8_t)(1u << bit % 8);
            cr_assert_neq(vv_checksum(buffer, bytes, 7), before);
            buffer[bit / 8] ^= (uint8_t)(1u << bit % 8);
        }
        cr_assert_neq(vv_checksum(buffer, bytes, 8), before, "nor does the seed");
        cr_assert_neq(vv_checksum(buffer, bytes - 1, 7), before, "nor the length");
    }
}

Test(checksum, a_stream_is_the_whole_however_it_is_cut, .init = fill_buffer) {
    for (size_t piece = 1; piece < sizeof buffer; piece = piece * 3 + 1) {
        vv_checksum_stream s;
        vv_checksum_stream_init(&s);
        for (size_t at = 0; at < sizeof buffer; at += piece)
            vv_checksum_stream_add(&s, buffer + at, VV_MIN(piece, sizeof buffer - at));
        cr_assert_eq(vv_checksum_stream_get(&s), vv_checksum(buffer, sizeof buffer, 0), "pieces of %zu",
                     piece);
    }
}
