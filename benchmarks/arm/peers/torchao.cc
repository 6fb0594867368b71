// torchao's kernels for 64-bit ARM as functions of gq_tvm's kernel runner. For each kernel NAME:
//
//   pack_NAME(indices u8 [N, K], table, scales f32 [N], packed u8 [capacity], size i64 [1])
//   NAME(x f32 [M, K], packed u8 [size], table, y f32 [M, N])
//
// lut_B     B of 1 to 4; table i8 [2^B], one for all outputs; a scale for each output
// uniform_B B of 1 to 8; weights are indices - 2^(B-1); table unused
// float_B   B of 1 to 4; table f32 [2^B]; fp32 activations
//
// A call quantises the activations and multiplies, as torchao's operators do.
#include <torchao/csrc/cpu/torch_free_kernels/aarch64/linear/channelwise_8bit_activation_groupwise_lowbit_weight/channelwise_8bit_activation_groupwise_lowbit_weight.h>
#include <torchao/csrc/cpu/torch_free_kernels/aarch64/linear/groupwise_lowbit_weight/groupwise_lowbit_weight_lut.h>

#include <memory>
#include <vector>

#include "tensors.h"

namespace int8 =
    torchao::kernels::cpu::aarch64::linear::channelwise_8bit_activation_groupwise_lowbit_weight;
namespace fp32 = torchao::kernels::cpu::aarch64::linear::groupwise_lowbit_weight_lut;

namespace {

using Bytes = std::unique_ptr<char[]>;

template <class T>
T* values(const TVMFFIAny* arguments, int number) {
  return static_cast<T*>(data(arguments, number));
}

int sized(const TVMFFIAny* arguments, size_t needed) {
  *values<int64_t>(arguments, 4) = static_cast<int64_t>(needed);
  return needed <= static_cast<size_t>(size(arguments, 3, 0)) ? 0 : -1;
}

#ifdef __ARM_FEATURE_DOTPROD
// The tile of kernel_1x8x16_f32_neondot.
constexpr int kRows = 1, kOutputs = 8, kDepth = 16, kSplit = 2;

template <int bits>
int pack_lut(const TVMFFIAny* arguments) {
  const int n = size(arguments, 0, 0), k = size(arguments, 0, 1);
  if (sized(arguments, int8::packed_weights_with_lut_size(n, k, k, bits, false, false, kOutputs,
                                                          kDepth, kSplit)))
    return -1;
  int8::pack_weights_with_lut<bits, kOutputs, kDepth, kSplit>(
      data(arguments, 3), n, k, k, values<int8_t>(arguments, 0), 1, values<int8_t>(arguments, 1),
      values<float>(arguments, 2), nullptr, nullptr, kOutputs, kDepth, kSplit);
  return 0;
}

template <int bits>
int pack_uniform(const TVMFFIAny* arguments) {
  const int n = size(arguments, 0, 0), k = size(arguments, 0, 1);
  if (sized(arguments, torchao::weight_packing::packed_weights_size(n, k, k, bits, false, false,
                                                                    kOutputs, kDepth, kSplit)))
    return -1;
  std::vector<int8_t> weights(static_cast<size_t>(n) * k);
  const uint8_t* indices = values<uint8_t>(arguments, 0);
  for (size_t i = 0; i < weights.size(); ++i)
    weights[i] = static_cast<int8_t>(indices[i] - (1 << (bits - 1)));
  torchao::weight_packing::pack_weights<bits, kOutputs, kDepth, kSplit>(
      data(arguments, 3), n, k, k, weights.data(), values<float>(arguments, 2), nullptr, nullptr,
      kOutputs, kDepth, kSplit);
  return 0;
}

template <int bits, bool lut>
int multiply(const TVMFFIAny* arguments) {
  const int m = size(arguments, 0, 0), k = size(arguments, 0, 1), n = size(arguments, 3, 1);
  Bytes x(new char[int8::packed_activations_size(m, k, k, false, kRows, kDepth, kSplit)]);
  int8::pack_activations<kRows, kDepth, kSplit>(x.get(), m, k, k, values<float>(arguments, 0),
                                                false, kRows, kDepth, kSplit);
  int8::kernel_1x8x16_f32_neondot<bits, false, lut>(values<float>(arguments, 3), n, m, n, k, k,
                                                    data(arguments, 1), x.get(), 0, 0, false, false,
                                                    false);
  return 0;
}
#endif

// The tile of groupwise_lowbit_weight_lut_kernel_1x4x32.
constexpr int kFloatOutputs = 4, kFloatDepth = 32, kFloatSplit = 8;

template <int bits>
int pack_float(const TVMFFIAny* arguments) {
  const int n = size(arguments, 0, 0), k = size(arguments, 0, 1);
  if (sized(arguments, fp32::packed_weights_size(n, k, bits, k, true, false, kFloatOutputs,
                                                 kFloatDepth, kFloatSplit)))
    return -1;
  fp32::pack_weights<bits, kFloatOutputs, kFloatDepth, kFloatSplit>(
      data(arguments, 3), values<uint8_t>(arguments, 0), values<float>(arguments, 2),
      values<float>(arguments, 1), n, k, k, n * k, true, false, nullptr, kFloatOutputs, kFloatDepth,
      kFloatSplit);
  return 0;
}

template <int bits>
int multiply_float(const TVMFFIAny* arguments) {
  const int m = size(arguments, 0, 0), k = size(arguments, 0, 1), n = size(arguments, 3, 1);
  fp32::groupwise_lowbit_weight_lut_kernel_1x4x32<bits, true>(
      values<float>(arguments, 3), n, m, n, k, k, n * k, data(arguments, 1), data(arguments, 0), 0,
      0, false, false);
  return 0;
}

}  // namespace

// clang-format off: macros that are no calls confuse it
extern "C" {
#define FLOAT(bits)                                                   \
  FUNCTION(pack_float_##bits) { return pack_float<bits>(arguments); } \
  FUNCTION(float_##bits) { return multiply_float<bits>(arguments); }
FLOAT(1) FLOAT(2) FLOAT(3) FLOAT(4)

#ifdef __ARM_FEATURE_DOTPROD
#define LUT(bits)                                                 \
  FUNCTION(pack_lut_##bits) { return pack_lut<bits>(arguments); } \
  FUNCTION(lut_##bits) { return multiply<bits, true>(arguments); }
#define UNIFORM(bits)                                                     \
  FUNCTION(pack_uniform_##bits) { return pack_uniform<bits>(arguments); } \
  FUNCTION(uniform_##bits) { return multiply<bits, false>(arguments); }
LUT(1) LUT(2) LUT(3) LUT(4)
UNIFORM(1) UNIFORM(2) UNIFORM(3) UNIFORM(4) UNIFORM(5) UNIFORM(6) UNIFORM(7) UNIFORM(8)
#endif
}
