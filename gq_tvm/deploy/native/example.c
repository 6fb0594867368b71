/* The least program that recognises speech: 16-bit samples on standard input, text on standard
 * output.
 *
 *   cc example.c -I. -L. -lgq -Wl,-rpath,'$ORIGIN' -o example
 *   arecord -t raw -f S16_LE -r 8000 | ./example .
 */
#include <stdio.h>

#include "gq.h"

int main(int count, char** arguments) {
  gq_model* model = gq_open(count > 1 ? arguments[1] : ".", 1);
  gq_stream* stream = model ? gq_stream_open(model) : NULL;
  const char* text = "";
  if (!stream) {
    fprintf(stderr, "error: %s\n", gq_error());
    return 2;
  }
  int16_t heard[320];
  float samples[320];
  for (size_t read; text && (read = fread(heard, sizeof *heard, 320, stdin)) > 0;) {
    for (size_t i = 0; i < read; ++i) samples[i] = heard[i] / 32768.0f;
    text = gq_stream_accept(stream, samples, (int64_t)read);
  }
  if (text) text = gq_stream_finish(stream);
  if (text) puts(text);
  else fprintf(stderr, "error: %s\n", gq_error());
  gq_stream_close(stream);
  gq_close(model);
  return text ? 0 : 2;
}
