// What one core can do at most: bytes read a second from buffers of given sizes, and instructions
// of each kind a second from registers, in twelve independent chains.
//
// Vector code is chosen by what -march=native offers; a kind of instruction that the machine lacks
// is not in the table.

#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + 1e-9 * t.tv_nsec;
}

// ---- reading

#if defined(__AVX512F__)
typedef uint64_t Wide __attribute__((vector_size(64)));
#elif defined(__AVX2__)
typedef uint64_t Wide __attribute__((vector_size(32)));
#else
typedef uint64_t Wide __attribute__((vector_size(16)));
#endif

static volatile uint64_t sink;

static void read_once(const char* start, size_t bytes) {
  Wide a = {0}, b = a, c = a, d = a;
  for (size_t i = 0; i < bytes; i += 8 * sizeof(Wide)) {
    const Wide* p = (const Wide*)(start + i);
    a ^= p[0];
    b ^= p[1];
    c ^= p[2];
    d ^= p[3];
    a ^= p[4];
    b ^= p[5];
    c ^= p[6];
    d ^= p[7];
  }
  a ^= b ^ c ^ d;
  sink += a[0];
}

// ---- computing

typedef double (*Loop)(long);

// A loop of twelve chains `OP(v)` on variables of type T, which OP may combine with x, y, f and g.
#define TWELVE(M) M(v0) M(v1) M(v2) M(v3) M(v4) M(v5) M(v6) M(v7) M(v8) M(v9) M(v10) M(v11)
#define KEEP(R)                                                                                   \
  __asm__ volatile(""                                                                             \
                   : "+" R(v0), "+" R(v1), "+" R(v2), "+" R(v3), "+" R(v4), "+" R(v5), "+" R(v6), \
                     "+" R(v7), "+" R(v8), "+" R(v9), "+" R(v10), "+" R(v11))
#define LOOP(NAME, T, START, CONSTANTS, REGISTER, OP)          \
  static double NAME(long count) {                             \
    T v0 = START, v1 = v0, v2 = v0, v3 = v0, v4 = v0, v5 = v0; \
    T v6 = v0, v7 = v0, v8 = v0, v9 = v0, v10 = v0, v11 = v0;  \
    CONSTANTS;                                                 \
    double start = now();                                      \
    for (long i = 0; i < count; i++) {                         \
      TWELVE(OP)                                               \
      KEEP(REGISTER);                                          \
    }                                                          \
    return now() - start;                                      \
  }

typedef struct {
  const char* name;
  double operations;  // an instruction (or group of them) counts for so many
  Loop run;
} Ceiling;

#if defined(__AVX512F__) && defined(__AVX512VBMI__) && defined(__AVX512VNNI__) && \
    defined(__AVX512VPOPCNTDQ__)
#include <immintrin.h>
#define INTS                                                                          \
  __m512i x = _mm512_set1_epi8(3 + (sink & 1)), y = _mm512_set1_epi8(5 + (sink & 1)); \
  (void)x;                                                                            \
  (void)y
#define FLOATS __m512 f = _mm512_set1_ps(1.0000001f), g = _mm512_set1_ps(1e-9f)
#define I0 _mm512_set1_epi8(7)
#define FMA(v) v = _mm512_fmadd_ps(v, f, g);
#define DOT(v) v = _mm512_dpbusd_epi32(v, x, y);
#define POPCOUNT(v) v = _mm512_add_epi64(v, _mm512_popcnt_epi64(_mm512_xor_si512(v, x)));
#define LOOKUP(v) v = _mm512_permutexvar_epi8(v, x);
// Each look-up has an index of its own, as far as the compiler can tell.
#define LOOKUP_DOT(v)                                             \
  {                                                               \
    __asm__ volatile("" : "+v"(y));                               \
    v = _mm512_dpbusd_epi32(v, x, _mm512_permutexvar_epi8(y, x)); \
  }
#define SHUFFLE(v) v = _mm512_shuffle_epi8(x, v);
#define LOGIC(v) v = _mm512_ternarylogic_epi64(v, x, y, 0x96);
LOOP(fma_loop, __m512, _mm512_set1_ps(1), FLOATS, "v", FMA)
LOOP(dot_loop, __m512i, I0, INTS, "v", DOT)
LOOP(popcount_loop, __m512i, I0, INTS, "v", POPCOUNT)
LOOP(lookup_loop, __m512i, I0, INTS, "v", LOOKUP)
LOOP(lookup_dot_loop, __m512i, I0, INTS, "v", LOOKUP_DOT)
LOOP(shuffle_loop, __m512i, I0, INTS, "v", SHUFFLE)
LOOP(logic_loop, __m512i, I0, INTS, "v", LOGIC)
static const Ceiling CEILINGS[] = {
    {"fp32 (vfmadd)", 32, fma_loop},
    {"int8 dot product (vpdpbusd)", 128, dot_loop},
    {"look-up then dot product (vpermb, vpdpbusd)", 128, lookup_dot_loop},
    {"1 x 1 bit (vpxor, vpopcntq, vpaddq)", 1024, popcount_loop},
    {"table of 64 bytes (vpermb), look-ups", 64, lookup_loop},
    {"table of 16 bytes (vpshufb), look-ups", 64, shuffle_loop},
    {"three-way logic (vpternlogq), bits", 512, logic_loop},
};
#elif defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
#define INTS __m256i x = _mm256_set1_epi8(3 + (sink & 1)), y = _mm256_set1_epi16(1)
#define FLOATS __m256 f = _mm256_set1_ps(1.0000001f), g = _mm256_set1_ps(1e-9f)
#define I0 _mm256_set1_epi8(7)
#define FMA(v) v = _mm256_fmadd_ps(v, f, g);
#define DOT(v) v = _mm256_add_epi32(v, _mm256_madd_epi16(_mm256_maddubs_epi16(x, v), y));
#define SHUFFLE(v) v = _mm256_shuffle_epi8(x, v);
LOOP(fma_loop, __m256, _mm256_set1_ps(1), FLOATS, "x", FMA)
LOOP(dot_loop, __m256i, I0, INTS, "x", DOT)
LOOP(shuffle_loop, __m256i, I0, INTS; (void)y, "x", SHUFFLE)
static const Ceiling CEILINGS[] = {
    {"fp32 (vfmadd)", 16, fma_loop},
    {"int8 dot product (vpmaddubsw, vpmaddwd, vpaddd)", 64, dot_loop},
    {"table of 16 bytes (vpshufb), look-ups", 32, shuffle_loop},
};
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#define FLOATS float32x4_t f = vdupq_n_f32(1.0000001f)
#define INTS                                                   \
  int8x16_t x = vdupq_n_s8(3 + (sink & 1)), y = vdupq_n_s8(5); \
  (void)x;                                                     \
  (void)y
#define FMA(v) v = vfmaq_f32(v, v, f);
#define LOOKUP(v) v = vqtbl1q_u8(vreinterpretq_u8_s8(x), v);
LOOP(fma_loop, float32x4_t, vdupq_n_f32(1), FLOATS, "w", FMA)
LOOP(lookup_loop, uint8x16_t, vdupq_n_u8(7), INTS, "w", LOOKUP)
#if defined(__ARM_FEATURE_DOTPROD)
#define DOT(v) v = vdotq_s32(v, x, y);
LOOP(dot_loop, int32x4_t, vdupq_n_s32(7), INTS, "w", DOT)
#endif
static const Ceiling CEILINGS[] = {
    {"fp32 (fmla)", 8, fma_loop},
#if defined(__ARM_FEATURE_DOTPROD)
    {"int8 dot product (sdot)", 32, dot_loop},
#endif
    {"table of 16 bytes (tbl), look-ups", 16, lookup_loop},
};
#else
static double nothing(long count) { return 1e-9 * (count + 1); }
static const Ceiling CEILINGS[] = {{"", 0, nothing}};
#endif

// ---- running on several threads at once

typedef struct {
  pthread_barrier_t* barrier;
  const char* buffer;  // to be read, or 0 to compute
  size_t bytes;
  long count;
  int ceiling;
  int rounds;
  double seconds;
} Job;

static void* work(void* argument) {
  Job* job = argument;
  job->seconds = 1e30;
  for (int round = 0; round < job->rounds; round++) {
    pthread_barrier_wait(job->barrier);
    double seconds;
    if (job->buffer) {
      double start = now();
      for (long i = 0; i < job->count; i++) read_once(job->buffer, job->bytes);
      seconds = now() - start;
    } else {
      seconds = CEILINGS[job->ceiling].run(job->count);
    }
    pthread_barrier_wait(job->barrier);
    if (seconds < job->seconds) job->seconds = seconds;
  }
  return 0;
}

enum { MOST_THREADS = 64 };

// Rates a second: `each` units a thread and round, divided by the slowest thread's best time.
static double rate(const Job* like, int threads, double each) {
  if (threads > MOST_THREADS) threads = MOST_THREADS;
  pthread_barrier_t barrier;
  pthread_barrier_init(&barrier, 0, threads);
  pthread_t handles[MOST_THREADS];
  Job jobs[MOST_THREADS];
  for (int i = 0; i < threads; i++) {
    jobs[i] = *like;
    jobs[i].barrier = &barrier;
    if (like->buffer) jobs[i].buffer = like->buffer + i * like->bytes;
    pthread_create(&handles[i], 0, work, &jobs[i]);
  }
  double slowest = 0;
  for (int i = 0; i < threads; i++) {
    pthread_join(handles[i], 0);
    if (jobs[i].seconds > slowest) slowest = jobs[i].seconds;
  }
  pthread_barrier_destroy(&barrier);
  return threads * each / slowest;
}

// Bytes a second, each thread reading its own `bytes` (a multiple of 4096) again and again.
double read_rate(size_t bytes, int threads, int rounds) {
  char* buffer = aligned_alloc(4096, bytes * threads);
  if (!buffer) return 0;
  memset(buffer, 1, bytes * threads);
  long count = (16l << 20) / (long)bytes;
  if (count < 1) count = 1;
  Job job = {.buffer = buffer, .bytes = bytes, .count = count, .rounds = rounds};
  double result = rate(&job, threads, (double)bytes * count);
  free(buffer);
  return result;
}

int ceiling_count(void) { return sizeof CEILINGS / sizeof *CEILINGS; }

const char* ceiling_name(int i) { return CEILINGS[i].name; }

// Operations a second of one of the ceilings.
double ceiling_rate(int i, int threads, int rounds) {
  long count = 200000;
  Job job = {.ceiling = i, .count = count, .rounds = rounds};
  return rate(&job, threads, 12.0 * count * CEILINGS[i].operations);
}

// Clock in Hz, from additions that wait for each other.
double clock_rate(int rounds) {
  double best = 1e30;
  uint64_t x = sink | 1;
  for (int round = 0; round < rounds; round++) {
    double start = now();
    for (long i = 0; i < 1000000; i++) {
#if defined(__x86_64__)
      __asm__ volatile(
          "add %0,%0\n\tadd %0,%0\n\tadd %0,%0\n\tadd %0,%0\n\tadd %0,%0\n\t"
          "add %0,%0\n\tadd %0,%0\n\tadd %0,%0\n\tadd %0,%0\n\tadd %0,%0"
          : "+r"(x));
#else
      __asm__ volatile(
          "add %0,%0,%0\n\tadd %0,%0,%0\n\tadd %0,%0,%0\n\tadd %0,%0,%0\n\t"
          "add %0,%0,%0\n\tadd %0,%0,%0\n\tadd %0,%0,%0\n\tadd %0,%0,%0\n\t"
          "add %0,%0,%0\n\tadd %0,%0,%0"
          : "+r"(x));
#endif
    }
    double seconds = now() - start;
    if (seconds < best) best = seconds;
  }
  sink += x;
  return 1e7 / best;
}
