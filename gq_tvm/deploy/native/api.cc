// The C interface; see gq.h.
#include "gq.h"

#include <algorithm>
#include <memory>
#include <new>
#include <stdexcept>

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
  } catch (const std::length_error&) {
    error = "there is not enough memory";
  } catch (const std::exception& problem) {
    error = problem.what();
  }
  return failure;
}

void need(bool holds, const std::string& what) {
  if (!holds) throw gq::Error(what);
}

gq::Tensor taken(const gq_tensor& input, int number) {
  need(input.dtype && input.dimensions >= 0 && input.dimensions <= GQ_MOST_DIMENSIONS,
       "input " + std::to_string(number) + " lacks a dtype or has too many dimensions");
  try {
    auto type = gq::Type::of(input.dtype);
    return {type, {input.shape, input.shape + input.dimensions}, input.data};
  } catch (const gq::Error& problem) {
    throw gq::Error("input " + std::to_string(number) + " " + problem.what());
  }
}

}  // namespace

const char* gq_error() { return error.c_str(); }

gq_model* gq_open(const char* folder, int threads) {
  return guarded<gq_model*>(nullptr, [&] {
    need(folder, "gq_open needs a folder");
    return new gq_model{{folder, threads}, nullptr};
  });
}

void gq_close(gq_model* model) { delete model; }

int gq_call(gq_model* model, const char* function, const gq_tensor* inputs, int input_count,
            gq_tensor* outputs, int output_count) {
  return guarded(-1, [&] {
    need(model && function && (inputs || input_count <= 0) && (outputs || output_count <= 0),
         "gq_call needs a model, a function, inputs and outputs");
    gq::Callable& callable = model->model.function(function);
    std::vector<gq::Tensor> given;
    for (int i = 0; i < input_count; ++i) given.push_back(taken(inputs[i], i));
    const gq::Function& plan = callable.plan();
    need(output_count >= 0 && static_cast<size_t>(output_count) == plan.outputs.size(),
         std::string(function) + " has " + std::to_string(plan.outputs.size()) + " outputs");
    for (size_t i = 0; i < plan.outputs.size(); ++i)
      need(plan.output(i).shape.size() <= GQ_MOST_DIMENSIONS,
           "an output has too many dimensions for gq_tensor");
    auto made = callable(given);
    for (size_t i = 0; i < made.size(); ++i) {
      gq_tensor& one = outputs[i];
      one.dtype = plan.output(i).type.name.c_str();
      one.dimensions = static_cast<int>(made[i].shape.size());
      std::copy(made[i].shape.begin(), made[i].shape.end(), one.shape);
      one.data = made[i].data;
    }
    return 0;
  });
}

int gq_sample_rate(gq_model* model) {
  return guarded(-1, [&] {
    need(model, "gq_sample_rate needs a model");
    return model->speech().features.sample_rate;
  });
}

gq_stream* gq_stream_open(gq_model* model) {
  return guarded<gq_stream*>(nullptr, [&] {
    need(model, "gq_stream_open needs a model");
    return new gq_stream{gq::Stream(model->speech())};
  });
}

const char* gq_stream_accept(gq_stream* stream, const float* samples, int64_t count) {
  return guarded<const char*>(nullptr, [&] {
    need(stream && count >= 0 && (samples || !count),
         "gq_stream_accept needs a stream and samples");
    return stream->stream.accept(samples, count).c_str();
  });
}

const char* gq_stream_finish(gq_stream* stream) {
  return guarded<const char*>(nullptr, [&] {
    need(stream, "gq_stream_finish needs a stream");
    return stream->stream.finish().c_str();
  });
}

void gq_stream_close(gq_stream* stream) { delete stream; }
