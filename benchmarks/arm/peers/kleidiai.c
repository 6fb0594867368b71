// KleidiAI's micro-kernels as functions of gq_tvm's kernel runner. For each kernel NAME:
//
//   pack_NAME(indices u8 [N, K], table i8 [2^B], scales f32 [N], packed u8 [capacity], size i64
//   [1]) NAME(x f32 [M, K], packed u8 [size], table i8 [2^B], y f32 [M, N])
//
// Weights of 4 and 8 bits are uniform, indices - 2^(B-1), and their table is unused; those of 2
// bits are any four numbers. A call quantises and packs the activations and multiplies.
#include <float.h>
#include <stdlib.h>

#include "kai/ukernels/matmul/pack/kai_lhs_quant_pack_qai8dxp_f32.h"
#include "kai/ukernels/matmul/pack/kai_rhs_pack_nxk_qsi4cxp_qs4cxs1s0.h"
#include "kai/ukernels/matmul/pack/kai_rhs_pack_nxk_qsi8cxp_qsi8cx_neon.h"
#include "kai/ukernels/matmul/pack/kai_rhs_pack_nxk_qsu2cxp4x4bf32sf32_qsu2cx_neon.h"
#include "tensors.h"

// What one family of weights is packed by.
typedef struct {
  size_t mr, nr, kr, sr;  // rows and outputs that are packed together, how deep, in how many parts
} tile;

// Indices of `bits` each, the first in the lowest bits of its byte; NULL without memory.
static uint8_t* joined(const uint8_t* indices, size_t count, size_t bits) {
  uint8_t* packed = calloc(count * bits / 8, 1);
  for (size_t i = 0; packed && i < count; ++i)
    packed[i * bits / 8] |= (uint8_t)(indices[i] << (i * bits % 8));
  return packed;
}

static int sized(const TVMFFIAny* arguments, size_t needed) {
  *(int64_t*)data(arguments, 4) = (int64_t)needed;
  return needed <= (size_t)size(arguments, 3, 0) ? 0 : -1;
}

static void widen(const TVMFFIAny* arguments, int number, int32_t* table) {
  for (int i = 0; i < 4; ++i) table[i] = ((const int8_t*)data(arguments, number))[i];
}

static int pack_2(const TVMFFIAny* arguments, tile t) {
  const size_t n = (size_t)size(arguments, 0, 0), k = (size_t)size(arguments, 0, 1);
  if (sized(arguments, kai_get_rhs_packed_size_rhs_pack_nxk_qsu2cxp4x4bf32sf32_qsu2cx_neon(
                           n, k, t.nr, t.kr, t.sr)))
    return -1;
  uint8_t* weights = joined(data(arguments, 0), n * k, 2);
  if (!weights) return -1;
  const struct kai_rhs_pack_qs4cxs1s0_param points = {.lhs_zero_point = 1, .rhs_zero_point = 2};
  int32_t table[4];
  widen(arguments, 1, table);
  kai_run_rhs_pack_nxk_qsu2cxp4x4bf32sf32_qsu2cx_neon(1, n, k, t.nr, t.kr, t.sr, weights, NULL,
                                                      data(arguments, 2), data(arguments, 3), 0,
                                                      &points, table);
  free(weights);
  return 0;
}

static int pack_4(const TVMFFIAny* arguments, tile t) {
  const size_t n = (size_t)size(arguments, 0, 0), k = (size_t)size(arguments, 0, 1);
  if (sized(arguments,
            kai_get_rhs_packed_size_rhs_pack_nxk_qsi4cxp_qs4cxs1s0(n, k, t.nr, t.kr, t.sr)))
    return -1;
  uint8_t* weights = joined(data(arguments, 0), n * k, 4);
  if (!weights) return -1;
  const struct kai_rhs_pack_qs4cxs1s0_param points = {.lhs_zero_point = 1, .rhs_zero_point = 8};
  kai_run_rhs_pack_nxk_qsi4cxp_qs4cxs1s0(1, n, k, t.nr, t.kr, t.sr, weights, NULL,
                                         data(arguments, 2), data(arguments, 3), 0, &points);
  free(weights);
  return 0;
}

static int pack_8(const TVMFFIAny* arguments, tile t) {
  const size_t n = (size_t)size(arguments, 0, 0), k = (size_t)size(arguments, 0, 1);
  if (sized(arguments,
            kai_get_rhs_packed_size_rhs_pack_nxk_qsi8cxp_qsi8cx_neon(n, k, t.nr, t.kr, t.sr)))
    return -1;
  int8_t* weights = malloc(n * k);
  if (!weights) return -1;
  for (size_t i = 0; i < n * k; ++i)
    weights[i] = (int8_t)(((const uint8_t*)data(arguments, 0))[i] - 128);
  const struct kai_rhs_pack_qsi8cx_params points = {.lhs_zero_point = 1, .scale_multiplier = 1};
  kai_run_rhs_pack_nxk_qsi8cxp_qsi8cx_neon(1, n, k, t.nr, t.kr, t.sr, weights, NULL,
                                           data(arguments, 2), data(arguments, 3), 0, &points);
  free(weights);
  return 0;
}

// The activations, quantised and packed; NULL without memory.
static void* staged(const TVMFFIAny* arguments, tile t) {
  const size_t m = (size_t)size(arguments, 0, 0), k = (size_t)size(arguments, 0, 1);
  void* packed = malloc(kai_get_lhs_packed_size_lhs_quant_pack_qai8dxp_f32(m, k, t.mr, t.kr, t.sr));
  if (packed)
    kai_run_lhs_quant_pack_qai8dxp_f32(m, k, t.mr, t.kr, t.sr, 0, data(arguments, 0),
                                       k * sizeof(float), packed);
  return packed;
}

#define KERNEL(bits, name, ...)                                                           \
  static tile tile_##name(void) {                                                         \
    return (tile){kai_get_mr_##name(), kai_get_nr_##name(), kai_get_kr_##name(),          \
                  kai_get_sr_##name()};                                                   \
  }                                                                                       \
  FUNCTION(pack_##name) { return pack_##bits(arguments, tile_##name()); }                 \
  FUNCTION(name) {                                                                        \
    const size_t m = (size_t)size(arguments, 0, 0), k = (size_t)size(arguments, 0, 1);    \
    const size_t n = (size_t)size(arguments, 3, 1);                                       \
    void* x = staged(arguments, tile_##name());                                           \
    if (!x) return -1;                                                                    \
    int32_t table[4];                                                                     \
    widen(arguments, 2, table);                                                           \
    kai_run_##name(m, n, k, x, data(arguments, 1), data(arguments, 3), n * sizeof(float), \
                   sizeof(float), -FLT_MAX, FLT_MAX __VA_OPT__(, ) __VA_ARGS__);          \
    free(x);                                                                              \
    return 0;                                                                             \
  }

// Written by the build, for each kernel: #include "kai/.../kai_NAME.h" and KERNEL(B, NAME, table).
#include "kernels.h"
