/* Linked into kernels.so: kernels report arguments that do not fit under this name of TVM's. The
 * core is told through its hook, and so is TVM where the process has it. */
#include <stdint.h>
#include <string.h>

enum { kLongest = 1000 };

void (*gq_report)(const char* kind, const char** parts, int32_t count);

__attribute__((weak)) void TVMFFIErrorSetRaisedFromCStr(const char* kind, const char* message);

__attribute__((visibility("hidden"))) void TVMFFIErrorSetRaisedFromCStrParts(const char* kind,
                                                                             const char** parts,
                                                                             int32_t count) {
  if (gq_report) gq_report(kind, parts, count);
  if (!TVMFFIErrorSetRaisedFromCStr) return;
  char text[kLongest + 1] = "";
  for (int32_t i = 0; i < count; ++i)
    if (parts[i]) strncat(text, parts[i], kLongest - strlen(text));
  TVMFFIErrorSetRaisedFromCStr(kind, text);
}
