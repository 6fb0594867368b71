/* Linked into kernels.so: kernels report arguments that do not fit under this name of TVM's. */
#include <stdint.h>

void (*gq_report)(const char* kind, const char** parts, int32_t count);

void TVMFFIErrorSetRaisedFromCStrParts(const char* kind, const char** parts, int32_t count) {
  if (gq_report) gq_report(kind, parts, count);
}
