/*
 * descriptors.h - a serialized google.protobuf.FileDescriptorSet of every .proto file here and its imports.
 */
#ifndef VV_PROTO_DESCRIPTORS_H
#define VV_PROTO_DESCRIPTORS_H

#include <stddef.h>

extern const unsigned char vv_proto_descriptors[];
extern const size_t vv_proto_descriptors_bytes;

#endif
