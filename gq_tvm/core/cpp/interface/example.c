/* The least program that recognises speech: 16-bit samples on standard input, text on standard
 * output as it grows. The rate of the samples must be the model's.
 *
 *   cc example.c -I. -L. -lgq -Wl,-rpath,'$ORIGIN' -o example
 *   arecord -t raw -f S16_LE -r 8000 | ./example . 8000
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gq.h"

enum { PIECE = 320 };

static int refused(const char* reason) {
  fprintf(stderr, "error: %s\n", reason);
  return 2;
}

/* Print what is new of a text that only grows; return how much of it has been printed. */
static size_t show(const char* text, size_t shown) {
  fputs(text + shown, stdout);
  fflush(stdout);
  return strlen(text);
}

static int listen(gq_stream* stream) {
  int16_t heard[PIECE];
  float samples[PIECE];
  size_t read, shown = 0;
  const char* text;
  while ((read = fread(heard, sizeof *heard, PIECE, stdin)) > 0) {
    for (size_t i = 0; i < read; ++i) samples[i] = heard[i] / 32768.0f;
    if (!(text = gq_stream_accept(stream, samples, (int64_t)read))) return refused(gq_error());
    shown = show(text, shown);
  }
  if (!(text = gq_stream_finish(stream))) return refused(gq_error());
  show(text, shown);
  return puts("") < 0 ? refused("standard output cannot be written") : 0;
}

int main(int count, char** arguments) {
  if (count != 3) return refused("usage: example FOLDER RATE");
  gq_model* model = gq_open(arguments[1], 1);
  if (!model) return refused(gq_error());
  int result = 2, rate = gq_sample_rate(model);
  gq_stream* stream = rate > 0 ? gq_stream_open(model) : NULL;
  if (!stream) refused(gq_error());
  else if (rate != atoi(arguments[2])) fprintf(stderr, "error: record at %d Hz\n", rate);
  else result = listen(stream);
  gq_stream_close(stream);
  gq_close(model);
  return result;
}
