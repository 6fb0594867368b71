// A linear layer and a stack of LSTM layers as ggml graphs, behind a C interface for ctypes.
//
// ggml has no binding for Python that reaches single operators. Weights are quantised by ggml
// itself; "repack" asks for its interleaved layouts, which it uses on its own for some types.

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <vector>

#include "ggml-backend.h"
#include "ggml-cpu.h"
#include "ggml.h"

namespace {

struct Graph {
  ggml_context *weights = nullptr;
  ggml_context *values = nullptr;
  ggml_backend_buffer_t buffer = nullptr;
  ggml_cgraph *graph = nullptr;
  ggml_cplan plan{};
  std::vector<uint8_t> scratch;
  ggml_tensor *x = nullptr;
  ggml_tensor *y = nullptr;
  size_t weight_bytes = 0;

  ~Graph() {
    if (buffer) ggml_backend_buffer_free(buffer);
    if (weights) ggml_free(weights);
    if (values) ggml_free(values);
  }
};

ggml_threadpool *pool(int threads) {
  static std::map<int, ggml_threadpool *> pools;
  ggml_threadpool *&found = pools[threads];
  if (!found) {
    ggml_threadpool_params params = ggml_threadpool_params_default(threads);
    found = ggml_threadpool_new(&params);
  }
  return found;
}

ggml_backend_buffer_type_t repacking() {
  ggml_backend_reg_t registry = ggml_backend_cpu_reg();
  auto list = (ggml_backend_dev_get_extra_bufts_t)ggml_backend_reg_get_proc_address(
      registry, "ggml_backend_dev_get_extra_bufts");
  if (!list) return nullptr;
  auto types = list(ggml_backend_reg_dev_get(registry, 0));
  for (; types && *types; types++)
    if (std::strstr(ggml_backend_buft_name(*types), "REPACK")) return *types;
  return nullptr;
}

void start() {
  ggml_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
  ggml_cpu_init();
}

ggml_context *context(size_t bytes, bool only_descriptions) {
  return ggml_init({bytes, nullptr, only_descriptions});
}

// Memory for the weights declared so far; false where this type is not repacked.
bool allocate(Graph &graph, const std::vector<ggml_tensor *> &weights, bool repack) {
  auto type = repack ? repacking() : ggml_backend_cpu_buffer_type();
  if (!type) return false;
  graph.buffer = ggml_backend_alloc_ctx_tensors_from_buft(graph.weights, type);
  if (!graph.buffer) return false;
  for (ggml_tensor *weight : weights)
    if (repack && !weight->extra) return false;
  return true;
}

void fill(Graph &graph, ggml_tensor *weight, const float *from) {
  int64_t inputs = weight->ne[0], outputs = weight->ne[1];
  std::vector<uint8_t> codes(ggml_nbytes(weight));
  std::vector<float> importance(inputs, 1.f);
  if (weight->type == GGML_TYPE_F32)
    std::memcpy(codes.data(), from, codes.size());
  else if (weight->type == GGML_TYPE_BF16)
    ggml_fp32_to_bf16_row(from, (ggml_bf16_t *)codes.data(), inputs * outputs);
  else
    ggml_quantize_chunk(weight->type, from, codes.data(), 0, outputs, inputs, importance.data());
  ggml_backend_tensor_set(weight, codes.data(), 0, codes.size());
  graph.weight_bytes += codes.size();
}

void plan(Graph &graph, int threads) {
  graph.plan = ggml_graph_plan(graph.graph, threads, pool(threads));
  graph.scratch.resize(graph.plan.work_size + 64);
  graph.plan.work_data = graph.scratch.data();
}

ggml_tensor *vector_of(ggml_context *values, int64_t size, const float *from) {
  ggml_tensor *made = ggml_new_tensor_1d(values, GGML_TYPE_F32, size);
  std::memcpy(made->data, from, size * sizeof(float));
  return made;
}

}  // namespace

extern "C" {

// y [rows, outputs] = x [rows, inputs] times the transposed weight; null where there is none.
void *shim_linear(int type, int outputs, int inputs, int rows, const float *weight, int threads,
                  int repack) {
  start();
  auto graph = std::make_unique<Graph>();
  graph->weights = context(1 << 20, true);
  ggml_tensor *w = ggml_new_tensor_2d(graph->weights, (ggml_type)type, inputs, outputs);
  if (!allocate(*graph, {w}, repack)) return nullptr;
  fill(*graph, w, weight);
  graph->values = context((4 << 20) + sizeof(float) * rows * ((size_t)inputs + outputs), false);
  graph->x = ggml_new_tensor_2d(graph->values, GGML_TYPE_F32, inputs, rows);
  graph->y = ggml_mul_mat(graph->values, w, graph->x);
  graph->graph = ggml_new_graph(graph->values);
  ggml_build_forward_expand(graph->graph, graph->y);
  plan(*graph, threads);
  return graph.release();
}

// One frame through `layers` LSTM layers of `width`. For layer l: weights[2 l] (input) and
// weights[2 l + 1] (recurrent), both [4 width, width], biases[l] [4 width], gates in the order
// i, f, o, g; states[2 l] (h) and states[2 l + 1] (c) [width], which each run replaces.
void *shim_lstm(int type, int layers, int width, const float *const *weights,
                const float *const *biases, const float *const *states, int threads, int repack) {
  start();
  auto graph = std::make_unique<Graph>();
  graph->weights = context(1 << 20, true);
  std::vector<ggml_tensor *> held;
  for (int i = 0; i < 2 * layers; i++)
    held.push_back(ggml_new_tensor_2d(graph->weights, (ggml_type)type, width, 4 * width));
  if (!allocate(*graph, held, repack)) return nullptr;
  for (int i = 0; i < 2 * layers; i++) fill(*graph, held[i], weights[i]);
  ggml_context *v = graph->values = context(32 << 20, false);
  ggml_tensor *x = graph->x = ggml_new_tensor_1d(v, GGML_TYPE_F32, width);
  graph->graph = ggml_new_graph(v);
  size_t row = sizeof(float) * width;
  for (int l = 0; l < layers; l++) {
    ggml_tensor *bias = vector_of(v, 4 * width, biases[l]);
    ggml_tensor *h = vector_of(v, width, states[2 * l]), *c = vector_of(v, width, states[2 * l + 1]);
    ggml_tensor *products =
        ggml_add(v, ggml_mul_mat(v, held[2 * l], x), ggml_mul_mat(v, held[2 * l + 1], h));
    ggml_tensor *gates = ggml_add(v, products, bias);
    ggml_tensor *open = ggml_sigmoid_inplace(v, ggml_view_1d(v, gates, 3 * width, 0));
    ggml_tensor *cell = ggml_tanh_inplace(v, ggml_view_1d(v, gates, width, 3 * row));
    ggml_tensor *in = ggml_view_1d(v, open, width, 0), *forget = ggml_view_1d(v, open, width, row);
    ggml_tensor *out = ggml_view_1d(v, open, width, 2 * row);
    ggml_tensor *new_c = ggml_add(v, ggml_mul(v, forget, c), ggml_mul(v, in, cell));
    ggml_tensor *new_h = ggml_mul(v, out, ggml_tanh(v, new_c));
    ggml_build_forward_expand(graph->graph, ggml_cpy(v, new_c, c));
    ggml_build_forward_expand(graph->graph, ggml_cpy(v, new_h, h));
    x = new_h;
  }
  graph->y = x;
  ggml_build_forward_expand(graph->graph, x);
  plan(*graph, threads);
  return graph.release();
}

float *shim_input(void *graph) { return (float *)((Graph *)graph)->x->data; }
float *shim_output(void *graph) { return (float *)((Graph *)graph)->y->data; }
size_t shim_weight_bytes(void *graph) { return ((Graph *)graph)->weight_bytes; }
void shim_run(void *graph) {
  Graph *g = (Graph *)graph;
  ggml_graph_compute(g->graph, &g->plan);
}
void shim_free(void *graph) { delete (Graph *)graph; }

}  // extern "C"
