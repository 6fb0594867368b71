/* gq-tvm models in a program of your own, without Python and without TVM. Python's gq_tvm.load runs
 * models by this interface too.
 *
 * A bundle (python -m gq_tvm.compile --bundle FOLDER) holds this header, libgq.so and the model.
 * The weights are mapped, not copied: processes that use a bundle share them.
 *
 * Threads: a model and its streams and outputs are for one thread at a time, whichever it is; the
 * caller sees to that. So is what gq_bind() returns, but different ones, of one model too, may run
 * in different threads, and while the model does something else. Different models, of one bundle
 * too, may be opened, used and closed by different threads at the same time. In a process that was
 * forked off, kernels run on the calling thread alone.
 *
 * Trust: a copy that was cut, padded or altered by accident is noticed when it is opened (each file
 * has a checksum in plan.txt, which has one itself), and so is a plan whose numbers lead out of its
 * tensors. Nobody's intent is: kernels.so is code and runs with the rights of the program, so take
 * bundles only from whom you would take a program.
 *
 * Functions that return a pointer return NULL on failure, those that return an int -1; gq_error()
 * says why.
 */
#ifndef GQ_H
#define GQ_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define GQ_API __attribute__((visibility("default")))

enum { GQ_MOST_DIMENSIONS = 6 };

typedef struct gq_model gq_model;
typedef struct gq_bound gq_bound;
typedef struct gq_stream gq_stream;

/* dtype: "float32", "int64", "int32", "uint8", ... as NumPy calls it. Data lies in C order. */
typedef struct {
  const char* dtype;
  int dimensions;
  int64_t shape[GQ_MOST_DIMENSIONS];
  void* data;
} gq_tensor;

/* What went wrong in the last call of this thread, in a sentence. */
GQ_API const char* gq_error(void);

/* Open the bundle in a folder. Its kernels run on so many threads, the caller's among them, which
 * are this model's own, and at most one for each CPU the caller may run on; those compiled for one
 * use one. */
GQ_API gq_model* gq_open(const char* folder, int threads);
GQ_API void gq_close(gq_model* model);

/* Call a function. Inputs are copied; outputs are described in `outputs`, and their data belongs to
 * the model and lives until the next call of the same function, whose inputs may be these outputs.
 */
GQ_API int gq_call(gq_model* model, const char* function, const gq_tensor* inputs, int input_count,
                   gq_tensor* outputs, int output_count);

/* Tie a function to memory and to so many threads, for calls that cost little beside the kernels.
 * Inputs are read where they lie, and must live as long; those that are not aligned to 64 bytes,
 * and those that share memory with an output, are copied at each run. Outputs whose data is not
 * NULL say what they are and where they go; the others are described, and their data belongs to
 * what is returned. Outputs may be inputs too, as the state of a stream. */
GQ_API gq_bound* gq_bind(gq_model* model, const char* function, const gq_tensor* inputs,
                         int input_count, gq_tensor* outputs, int output_count, int threads);
/* Run the function on what its inputs hold now. */
GQ_API int gq_run(gq_bound* bound);
/* The same `runs` times: `seconds` [runs] is how long each took. If `kernels` is not NULL, only the
 * kernels are run, in the order of the plan, and `kernels` [runs][calls] is how long each took. */
GQ_API int gq_time(gq_bound* bound, int runs, double* seconds, double* kernels);
/* Before its model is closed. */
GQ_API void gq_unbind(gq_bound* bound);

/* Of a recogniser: samples a second it expects, and samples of the pieces in which it computes; -1
 * for other models. */
GQ_API int gq_sample_rate(gq_model* model);
GQ_API int64_t gq_chunk_samples(gq_model* model);

/* Recognise speech as it arrives. accept() takes samples in [-1, 1], any number of them, and
 * returns the text so far, which only ever grows; finish() returns the whole text and makes the
 * stream ready for another recording. The text is UTF-8 and lives until the next call for this
 * stream. Samples that are no audio (NaN, beyond 1e10) are refused and change nothing. Close a
 * stream before its model. */
GQ_API gq_stream* gq_stream_open(gq_model* model);
GQ_API const char* gq_stream_accept(gq_stream* stream, const float* samples, int64_t count);
GQ_API const char* gq_stream_finish(gq_stream* stream);
GQ_API void gq_stream_close(gq_stream* stream);

#ifdef __cplusplus
}
#endif

#endif
