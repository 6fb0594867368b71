// The C interface; see gq.h.
#include "gq.h"

#include <memory>
#include <new>

#include "model.h"
#include "speech.h"

struct gq_model {
  gq::Model model;
  std::unique_ptr<gq::Recogniser> recogniser;

  gq::Recogniser& speech() {
    if (!recogniser) recogniser = std::make_unique<gq::Recogniser>(model);
    return *recogniser;
  }
};

struct gq_stream {
  gq::Stream stream;
};

namespace {

thread_local std::string error;

template <class Result, class Body>
Result guarded(Result failure, Body body) {
  try {
    error.clear();
    return body();
  } catch (const std::bad_alloc&) {
    error = "there is not enough memory";
  } catch (const std::exception& problem) {
    error = problem.what();
  }
  return failure;
}

}  // namespace

const char* gq_error() { return error.c_str(); }

gq_model* gq_open(const char* folder, int threads) {
  return guarded<gq_model*>(nullptr, [&] {
    if (!folder) throw gq::Error("gq_open needs a folder");
    return new gq_model{{folder, threads}, nullptr};
  });
}

void gq_close(gq_model* model) { delete model; }

int gq_call(gq_model* model, const char* function, const gq_tensor* inputs, int input_count,
            gq_tensor* outputs, int output_count) {
  return guarded(-1, [&] {
    gq::Callable& callable = model->model.function(function);
    std::vector<gq::Tensor> given;
    for (int i = 0; i < input_count; ++i) {
      const gq_tensor& one = inputs[i];
      if (!one.dtype || one.dimensions < 0 || one.dimensions > GQ_MOST_DIMENSIONS)
        throw gq::Error("input " + std::to_string(i) + " lacks a dtype or has too many dimensions");
      given.push_back({gq::Type::of(one.dtype), {one.shape, one.shape + one.dimensions}, one.data});
    }
    auto made = callable(given);
    if (made.size() != static_cast<size_t>(output_count))
      throw gq::Error(std::string(function) + " has " + std::to_string(made.size()) + " outputs");
    for (size_t i = 0; i < made.size(); ++i) {
      gq_tensor& one = outputs[i];
      if (made[i].shape.size() > GQ_MOST_DIMENSIONS)
        throw gq::Error("an output has too many dimensions for gq_tensor");
      const auto& plan = callable.plan();
      one.dtype = plan.values[static_cast<size_t>(plan.outputs[i])].type.name.c_str();
      one.dimensions = static_cast<int>(made[i].shape.size());
      for (size_t j = 0; j < made[i].shape.size(); ++j) one.shape[j] = made[i].shape[j];
      one.data = made[i].data;
    }
    return 0;
  });
}

int gq_sample_rate(gq_model* model) {
  return guarded(-1, [&] { return model->speech().features.sample_rate; });
}

gq_stream* gq_stream_open(gq_model* model) {
  return guarded<gq_stream*>(nullptr, [&] { return new gq_stream{gq::Stream(model->speech())}; });
}

const char* gq_stream_accept(gq_stream* stream, const float* samples, int64_t count) {
  return guarded<const char*>(nullptr,
                              [&] { return stream->stream.accept(samples, count).c_str(); });
}

const char* gq_stream_finish(gq_stream* stream) {
  return guarded<const char*>(nullptr, [&] { return stream->stream.finish().c_str(); });
}

void gq_stream_close(gq_stream* stream) { delete stream; }
