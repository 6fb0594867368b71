/* A QEMU plugin: what one file's code executes, and where a model of caches finds what it reads.
 *
 *   -plugin count_plugin.so,code=PATH,entry=E,out=OUT,range=A-B,...,cache=LINES,...
 *
 * Counts the code of the mapped file PATH at offsets from A to below B, wherever it is mapped. A
 * call begins whenever offset E is executed, and nothing before the first is counted. The first
 * call finds the caches empty; all others together find what was left there. At exit OUT has lines
 * of
 *
 *   calls N
 *   block OFFSET FIRST OTHERS BYTES BYTES...    executions by the first call and by the others, and
 * the size of each instruction lines FIRST OTHERS                          of 64 bytes, found in
 * the first cache, then a line for the next; the last is memory
 *
 * The caches are inclusive and fully associative, and forget what was used longest ago: so no
 * address matters, and a run counts what the run before it did. Writes count like reads. There is
 * one thread.
 *
 * Of QEMU's plugin interface only functions are used that are alike in its versions 1 (QEMU 4.2)
 * and later; API_VERSION says which one is asked for.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

enum { LINE = 64, MOST_LEVELS = 6, MOST_RANGES = 64, NOWHERE = -1 };

/* QEMU's plugin interface. */

typedef uint64_t plugin_id;
struct about {
  const char* machine; /* and more */
};
struct tb;
struct instruction;
enum { NO_REGISTERS = 0, READS_AND_WRITES = 3 };
typedef void (*translation_callback)(plugin_id, struct tb*);
typedef void (*execution_callback)(unsigned, void*);
typedef void (*access_callback)(unsigned, uint32_t, uint64_t, void*);
typedef void (*exit_callback)(plugin_id, void*);

void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, translation_callback);
void qemu_plugin_register_vcpu_tb_exec_cb(struct tb*, execution_callback, int, void*);
void qemu_plugin_register_vcpu_mem_cb(struct instruction*, access_callback, int, int, void*);
void qemu_plugin_register_atexit_cb(plugin_id, exit_callback, void*);
size_t qemu_plugin_tb_n_insns(const struct tb*);
size_t qemu_plugin_insn_size(const struct instruction*);
struct instruction* qemu_plugin_tb_get_insn(const struct tb*, size_t);
void* qemu_plugin_insn_haddr(const struct instruction*);
unsigned qemu_plugin_mem_size_shift(uint32_t);

EXPORT int qemu_plugin_version = API_VERSION;

static void die(const char* what) {
  fprintf(stderr, "count_plugin: %s\n", what);
  exit(3);
}

static void* zeros(size_t count, size_t size) {
  void* memory = calloc(count, size);
  if (!memory) die("out of memory");
  return memory;
}

/* Caches: a hash table of lines, and a list of them from the last used to the first. */

struct line {
  uint64_t number;
  int32_t chained, newer, older;
};

struct cache {
  int32_t size, used, newest, oldest;
  uint32_t mask;
  int32_t* heads;
  struct line* lines;
};

static struct cache caches[MOST_LEVELS];
static int levels;

static void add_cache(int32_t size) {
  if (levels == MOST_LEVELS || size < 1) die("bad caches");
  struct cache* cache = &caches[levels++];
  uint32_t heads = 1;
  while (heads < 2u * (uint32_t)size) heads *= 2;
  *cache = (struct cache){.size = size, .newest = NOWHERE, .oldest = NOWHERE, .mask = heads - 1};
  cache->heads = zeros(heads, sizeof *cache->heads);
  memset(cache->heads, 0xff, heads * sizeof *cache->heads);
  cache->lines = zeros((size_t)size, sizeof *cache->lines);
}

static int32_t* head_of(struct cache* cache, uint64_t number) {
  return &cache->heads[(uint32_t)((number * 0x9e3779b97f4a7c15u) >> 32) & cache->mask];
}

static void unlist(struct cache* cache, struct line* line) {
  *(line->newer == NOWHERE ? &cache->newest : &cache->lines[line->newer].older) = line->older;
  *(line->older == NOWHERE ? &cache->oldest : &cache->lines[line->older].newer) = line->newer;
}

static void list(struct cache* cache, int32_t at) {
  struct line* line = &cache->lines[at];
  line->newer = NOWHERE;
  line->older = cache->newest;
  *(line->older == NOWHERE ? &cache->oldest : &cache->lines[line->older].newer) = at;
  cache->newest = at;
}

/* Whether a cache has a line, which becomes its newest either way. */
static bool touch(struct cache* cache, uint64_t number) {
  int32_t* head = head_of(cache, number);
  for (int32_t at = *head; at != NOWHERE; at = cache->lines[at].chained) {
    if (cache->lines[at].number != number) continue;
    if (cache->newest != at) {
      unlist(cache, &cache->lines[at]);
      list(cache, at);
    }
    return true;
  }
  int32_t at = cache->used;
  if (at < cache->size) {
    ++cache->used;
  } else {
    at = cache->oldest;
    unlist(cache, &cache->lines[at]);
    int32_t* link = head_of(cache, cache->lines[at].number);
    while (*link != at) link = &cache->lines[*link].chained;
    *link = cache->lines[at].chained;
  }
  cache->lines[at].number = number;
  cache->lines[at].chained = *head;
  *head = at;
  list(cache, at);
  return false;
}

/* Counts. */

struct block {
  uint64_t offset, instructions, executions[2];
  struct block* next;
  uint8_t sizes[];
};

static struct block* blocks;
static uint64_t calls, entry, found[MOST_LEVELS + 1][2];
static struct {
  unsigned long long from, to;
} ranges[MOST_RANGES];
static int used_ranges;
static const char *file, *out;
static bool aarch64;

static void on_block(unsigned cpu, void* data) {
  struct block* block = data;
  calls += block->offset == entry;
  if (calls) ++block->executions[calls > 1];
}

static void on_memory(unsigned cpu, uint32_t about, uint64_t address, void* data) {
  if (!calls) return;
  uint64_t last = (address + (1u << qemu_plugin_mem_size_shift(about)) - 1) / LINE;
  for (uint64_t line = address / LINE; line <= last; ++line) {
    int level = 0;
    while (level < levels && !touch(&caches[level], line)) ++level;
    ++found[level][calls > 1];
  }
}

static bool counted(uint64_t offset) {
  for (int i = 0; i < used_ranges; ++i)
    if (offset >= ranges[i].from && offset < ranges[i].to) return true;
  return false;
}

/* The offset in `file` of what the emulator has mapped at a host address; false if it is elsewhere.
 */
static bool offset_of(const void* code, uint64_t* offset) {
  static uint64_t start, end, at; /* the mapping looked up last */
  static bool ours;
  uint64_t address = (uint64_t)(uintptr_t)code;
  if (address < start || address >= end) {
    char line[4096 + 128];
    FILE* maps = fopen("/proc/self/maps", "r");
    if (!maps) die("cannot read /proc/self/maps");
    start = end = 0;
    while (!end && fgets(line, sizeof line, maps)) {
      unsigned long long low, high, position;
      int path = 0;
      if (sscanf(line, "%llx-%llx %*s %llx %*s %*s %n", &low, &high, &position, &path) < 3)
        continue;
      if (address < low || address >= high) continue;
      line[strcspn(line, "\n")] = 0;
      ours = path && !strcmp(line + path, file);
      start = low, end = high, at = position;
    }
    fclose(maps);
  }
  *offset = address - start + at;
  return end && ours;
}

/* Whether an instruction is a branch of AArch64 (Arm ARM DDI 0487, C4.1: op0 is x101). They read no
 * memory; but QEMU 7.2 keeps the callbacks of one that leaves for another block, and calls them for
 * what the code after it reads. */
static bool leaves(const struct instruction* instruction) {
  uint32_t word;
  if (!aarch64) return false;
  memcpy(&word, qemu_plugin_insn_haddr(instruction), sizeof word);
  return (word & 0x1c000000) == 0x14000000;
}

static void on_tb(plugin_id id, struct tb* tb) {
  uint64_t offset, count = qemu_plugin_tb_n_insns(tb);
  if (!offset_of(qemu_plugin_insn_haddr(qemu_plugin_tb_get_insn(tb, 0)), &offset)) return;
  if (!counted(offset)) return;
  struct block* block = blocks;
  while (block && (block->offset != offset || block->instructions != count)) block = block->next;
  if (!block) {
    block = zeros(1, sizeof *block + count);
    block->offset = offset, block->instructions = count, block->next = blocks;
    for (size_t i = 0; i < count; ++i)
      block->sizes[i] = (uint8_t)qemu_plugin_insn_size(qemu_plugin_tb_get_insn(tb, i));
    blocks = block;
  }
  qemu_plugin_register_vcpu_tb_exec_cb(tb, on_block, NO_REGISTERS, block);
  for (size_t i = 0; levels && i < count; ++i) {
    struct instruction* instruction = qemu_plugin_tb_get_insn(tb, i);
    if (!leaves(instruction))
      qemu_plugin_register_vcpu_mem_cb(instruction, on_memory, NO_REGISTERS, READS_AND_WRITES,
                                       NULL);
  }
}

static void on_end(plugin_id id, void* data) {
  FILE* text = fopen(out, "w");
  if (!text) die("cannot write its results");
  fprintf(text, "calls %llu\n", (unsigned long long)calls);
  for (struct block* block = blocks; block; block = block->next) {
    fprintf(text, "block %llu %llu %llu", (unsigned long long)block->offset,
            (unsigned long long)block->executions[0], (unsigned long long)block->executions[1]);
    for (uint64_t i = 0; i < block->instructions; ++i) fprintf(text, " %u", block->sizes[i]);
    fputc('\n', text);
  }
  for (int level = 0; level <= levels; ++level)
    fprintf(text, "lines %llu %llu\n", (unsigned long long)found[level][0],
            (unsigned long long)found[level][1]);
  if (fclose(text)) die("cannot write its results");
}

static void add_range(const char* text) {
  if (used_ranges == MOST_RANGES) die("too many ranges");
  if (sscanf(text, "%llu-%llu", &ranges[used_ranges].from, &ranges[used_ranges].to) != 2)
    die("bad range");
  ++used_ranges;
}

EXPORT int qemu_plugin_install(plugin_id id, const struct about* about, int count, char** options) {
  for (int i = 0; i < count; ++i) {
    char* value = strchr(options[i], '=');
    if (!value++) die("bad option");
    if (!strncmp(options[i], "code=", 5)) file = strdup(value);
    else if (!strncmp(options[i], "out=", 4)) out = strdup(value);
    else if (!strncmp(options[i], "range=", 6)) add_range(value);
    else if (!strncmp(options[i], "entry=", 6)) entry = strtoull(value, NULL, 0);
    else if (!strncmp(options[i], "cache=", 6)) add_cache(atoi(value));
    else die("unknown option");
  }
  aarch64 = !strcmp(about->machine, "aarch64");
  if (!file || !out) die("code and out are missing");
  qemu_plugin_register_vcpu_tb_trans_cb(id, on_tb);
  qemu_plugin_register_atexit_cb(id, on_end, NULL);
  return 0;
}
