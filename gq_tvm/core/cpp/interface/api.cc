// The C interface; see gq.h.
#include "gq.h"

#include <algorithm>
#include <memory>
#include <new>
#include <stdexcept>

#include "run/model.h"
#include "speech/speech.h"

struct gq_model {
  gq::Model model;
  std::unique_ptr<gq::Recogniser> recogniser;

  gq::Recogniser& speech() {
    if (!recogniser) recogniser = std::make_unique<gq::Recogniser>(model);
    return *recogniser;
  }
};

struct gq_bound {
  std::unique_ptr<gq::Bound> bound;
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

gq::Tensor taken(const gq_tensor& tensor, const std::string& name) {
  need(tensor.dtype && tensor.dimensions >= 0 && tensor.dimensions <= GQ_MOST_DIMENSIONS,
       name + " lacks a dtype or has too many dimensions");
  try {
    auto type = gq::Type::of(tensor.dtype);
    return {type, {tensor.shape, tensor.shape + tensor.dimensions}, tensor.data};
  } catch (const gq::Error& problem) {
    throw gq::Error(name + " " + problem.what());
  }
}

std::vector<gq::Tensor> taken(const gq_tensor* inputs, int count) {
  std::vector<gq::Tensor> given;
  for (int i = 0; i < count; ++i) given.push_back(taken(inputs[i], "input " + std::to_string(i)));
  return given;
}

void give(const gq::Tensor& made, const gq::Type& type, gq_tensor& output) {
  output.dtype = type.name.c_str();
  output.dimensions = static_cast<int>(made.shape.size());
  std::copy(made.shape.begin(), made.shape.end(), output.shape);
  output.data = made.data;
}

// Throws unless there is room for a function's outputs.
void need_outputs(const gq::Function& plan, int count) {
  need(count >= 0 && static_cast<size_t>(count) == plan.outputs.size(),
       plan.name + " has " + std::to_string(plan.outputs.size()) + " outputs");
  for (size_t i = 0; i < plan.outputs.size(); ++i)
    need(plan.output(i).shape.size() <= GQ_MOST_DIMENSIONS,
         "an output has too many dimensions for gq_tensor");
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
    std::vector<gq::Tensor> given = taken(inputs, input_count);
    need_outputs(callable.plan(), output_count);
    auto made = callable(given);
    for (size_t i = 0; i < made.size(); ++i)
      give(made[i], callable.plan().output(i).type, outputs[i]);
    return 0;
  });
}

gq_bound* gq_bind(gq_model* model, const char* function, const gq_tensor* inputs, int input_count,
                  gq_tensor* outputs, int output_count, int threads) {
  return guarded<gq_bound*>(nullptr, [&] {
    need(model && function && (inputs || input_count <= 0) && (outputs || output_count <= 0),
         "gq_bind needs a model, a function, inputs and outputs");
    const gq::Function& plan = model->model.planned(function);
    need_outputs(plan, output_count);
    std::vector<gq::Tensor> made(plan.outputs.size());
    for (size_t i = 0; i < made.size(); ++i)
      if (outputs[i].data) made[i] = taken(outputs[i], "output " + std::to_string(i));
    auto bound = std::make_unique<gq_bound>();
    bound->bound = model->model.bind(plan, taken(inputs, input_count), made, threads);
    for (size_t i = 0; i < made.size(); ++i) give(made[i], plan.output(i).type, outputs[i]);
    return bound.release();
  });
}

int gq_run(gq_bound* bound) {
  return guarded(-1, [&] {
    need(bound, "gq_run needs what gq_bind returned");
    (*bound->bound)();
    return 0;
  });
}

int gq_time(gq_bound* bound, int runs, double* seconds, double* kernels) {
  return guarded(-1, [&] {
    need(bound && seconds, "gq_time needs what gq_bind returned, and room for seconds");
    bound->bound->time(runs, seconds, kernels);
    return 0;
  });
}

void gq_unbind(gq_bound* bound) { delete bound; }

int gq_sample_rate(gq_model* model) {
  return guarded(-1, [&] {
    need(model, "gq_sample_rate needs a model");
    return model->speech().features.sample_rate;
  });
}

int64_t gq_chunk_samples(gq_model* model) {
  return guarded<int64_t>(-1, [&] {
    need(model, "gq_chunk_samples needs a model");
    return model->speech().chunk_samples();
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
