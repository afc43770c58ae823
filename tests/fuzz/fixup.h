/*
 * fixup.h - makes the checksums of mutated files right, so that fuzzing gets behind them.
 *
 * Each function takes a whole file as the engine would find it, and writes into it whatever checksums
 * FORMAT.md asks for, as far as the layout can still be made out; all else stays as it is. Nothing is
 * believed: lengths that lead out of the file end the walk. Each target has a choice in its input of
 * whether to call them, so that damage which the checksums are there for is tried as well.
 */
#ifndef VV_TESTS_FUZZ_FIXUP_H
#define VV_TESTS_FUZZ_FIXUP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A log segment: header and frames. sizes: make the header's segment_bytes the file's, too. */
void fuzz_fix_segment(uint8_t *file, size_t bytes, bool sizes);

/* One data block of a table of this id, at this offset of the file. */
void fuzz_fix_block(uint8_t *block, size_t bytes, uint64_t table_id, uint64_t offset);

/* An index block at this offset of the file. */
void fuzz_fix_index(uint8_t *block, size_t bytes, uint64_t offset);

/* A table: blocks, filter, footer, index. sizes: make the parts follow each other to the file's end. */
void fuzz_fix_table(uint8_t *file, size_t bytes, bool sizes);

/* A manifest; its file_bytes as well. */
void fuzz_fix_manifest(uint8_t *file, size_t bytes);

/* A file of an archive, or of a log's tail that was cut off. */
void fuzz_fix_archive(uint8_t *file, size_t bytes);

/* A marker, or any file that ends with the checksum of all before, seed 0. */
void fuzz_fix_end(uint8_t *file, size_t bytes);

#endif
