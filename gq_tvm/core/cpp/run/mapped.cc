#include "run/mapped.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "plan/crc32.h"

namespace gq {
namespace {

struct Descriptor {
  int number;
  ~Descriptor() {
    if (number >= 0) close(number);
  }
};

}  // namespace

MappedFile::MappedFile(const std::string& path, const Content& content) {
  // Not blocking: a pipe is no file, and might keep us waiting.
  Descriptor file{open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  struct stat about{};
  if (file.number < 0 || fstat(file.number, &about) || !S_ISREG(about.st_mode))
    throw Error(path + " cannot be read; copy the whole folder");
  if (about.st_size != content.size)
    throw Error(path + " has the wrong size; copy the whole folder again");
  if (about.st_size > PTRDIFF_MAX)
    throw Error(path + " is larger than a 32-bit program can map; use a 64-bit system");
  size_ = static_cast<size_t>(about.st_size);
  if (!size_) return;
  // Writable, and private: a kernel handed the wrong argument spoils a copy of a page, no more.
  void* mapped =
      mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, file.number, 0);
  if (mapped == MAP_FAILED) throw Error(path + " cannot be mapped; is there memory for it?");
  data_ = static_cast<char*>(mapped);
  if (crc32(data_, size_) != content.crc) {
    munmap(mapped, size_);
    throw Error(path + " is damaged; copy the whole folder again");
  }
}

MappedFile::~MappedFile() {
  if (data_) munmap(data_, size_);
}

}  // namespace gq
