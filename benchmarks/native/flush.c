// Fills the caches of every core, and what they share, with other data: each core reads and writes
// a part of its own of a buffer larger than all of them.

#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { LINE = 64, MOST_CORES = 256 };

typedef struct {
  char* start;
  size_t bytes;
  int core;
} Part;

static volatile uint64_t sink;

static void* touch(void* argument) {
  const Part* part = argument;
  cpu_set_t only;
  CPU_ZERO(&only);
  CPU_SET(part->core, &only);
  pthread_setaffinity_np(pthread_self(), sizeof only, &only);
  uint64_t sum = 0;
  for (size_t i = 0; i < part->bytes; i += LINE) {
    uint64_t* word = (uint64_t*)(part->start + i);
    sum += *word;
    *word = sum;
  }
  sink = sum;
  return 0;
}

// Returns 0, or -1 where the buffer cannot be had.
int flush_caches(size_t bytes, const int* cores, int count) {
  static char* buffer;
  static size_t size;
  if (count > MOST_CORES) count = MOST_CORES;
  if (size < bytes) {
    free(buffer);
    size = 0;
    buffer = aligned_alloc(4096, bytes);
    if (!buffer) return -1;
    memset(buffer, 1, bytes);
    size = bytes;
  }
  pthread_t threads[MOST_CORES];
  Part parts[MOST_CORES];
  size_t share = bytes / count / LINE * LINE;
  int started = 0;
  for (; started < count; started++) {
    parts[started] = (Part){buffer + started * share, share, cores[started]};
    if (pthread_create(&threads[started], 0, touch, &parts[started])) break;
  }
  for (int i = 0; i < started; i++) pthread_join(threads[i], 0);
  return started == count ? 0 : -1;
}
