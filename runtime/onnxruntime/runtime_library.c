#include "onnxruntime/runtime_library.h"

#include <dlfcn.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/error.h"

static const char advice[] = "name one by --runtime-library or MOBILE_BUNDLE_ONNXRUNTIME";

static void *load(const char *path) {
  static const char *const names[] = {"libonnxruntime.so", "libonnxruntime.so.1"};
  if (path) return dlopen(path, RTLD_NOW | RTLD_LOCAL);
  void *library = NULL;
  for (size_t i = 0; i < sizeof names / sizeof names[0] && !library; i++)
    library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
  return library;
}

mb_status runtime_library_open(const char *path, const OrtApi **api) {
  if (!path) path = getenv("MOBILE_BUNDLE_ONNXRUNTIME");
  void *library = load(path);
  if (!library) return mb_fail(MB_ERROR_IO, "ONNX Runtime cannot be loaded (%s): %s", dlerror(), advice);
  const OrtApiBase *(*get)(void);
  void *symbol = dlsym(library, "OrtGetApiBase");
  memcpy(&get, &symbol, sizeof get); /* C does not convert between pointers to data and to functions */
  if (!symbol) {
    dlclose(library);
    return mb_fail(MB_ERROR_FORMAT, "%s is not ONNX Runtime: %s", path ? path : "libonnxruntime.so", advice);
  }
  *api = get()->GetApi(ORT_API_VERSION);
  if (!*api)
    return mb_fail(MB_ERROR_FORMAT, "ONNX Runtime %s is too old, 1.%d or later is needed: %s",
                   get()->GetVersionString(), ORT_API_VERSION, advice);
  return MB_OK;
}

/* Text that relocations were written into would be lost: no library for Android or a current Linux has any. */
static bool has_text_relocations(const struct dl_phdr_info *object) {
  for (unsigned i = 0; i < object->dlpi_phnum; i++) {
    if (object->dlpi_phdr[i].p_type != PT_DYNAMIC) continue;
    const ElfW(Dyn) *entry = (const void *)(object->dlpi_addr + object->dlpi_phdr[i].p_vaddr);
    for (; entry->d_tag != DT_NULL; entry++)
      if (entry->d_tag == DT_TEXTREL || (entry->d_tag == DT_FLAGS && entry->d_un.d_val & DF_TEXTREL)) return true;
  }
  return false;
}

static int give_back_object(struct dl_phdr_info *object, size_t size, void *code) {
  (void)size;
  bool here = false;
  for (unsigned i = 0; i < object->dlpi_phnum; i++) {
    const ElfW(Phdr) *segment = &object->dlpi_phdr[i];
    const uintptr_t begin = object->dlpi_addr + segment->p_vaddr;
    here |= segment->p_type == PT_LOAD && (uintptr_t)code >= begin && (uintptr_t)code - begin < segment->p_memsz;
  }
  if (!here || has_text_relocations(object)) return here;
  const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
  for (unsigned i = 0; i < object->dlpi_phnum; i++) {
    const ElfW(Phdr) *segment = &object->dlpi_phdr[i];
    if (segment->p_type != PT_LOAD || segment->p_flags & PF_W) continue;
    const uintptr_t begin = (object->dlpi_addr + segment->p_vaddr + page - 1) / page * page;
    const uintptr_t end = (object->dlpi_addr + segment->p_vaddr + segment->p_filesz) / page * page;
    if (end > begin) (void)madvise((void *)begin, end - begin, MADV_DONTNEED);
  }
  return 1; /* it was this one: look no further */
}

void runtime_library_give_back(const OrtApi *api) {
  void *code;
  memcpy(&code, &api->CreateStatus, sizeof code);
  (void)dl_iterate_phdr(give_back_object, code);
}

mb_status operator_library_path(char *path, size_t capacity) {
  static const char *const places[] = {"", "../../lib/"};
  static const char name[] = "libmobile_bundle_onnx.so";
  char program[4096];
  const ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
  if (length > 0) {
    program[length] = 0;
    strrchr(program, '/')[1] = 0;
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
      const int written = snprintf(path, capacity, "%s%s%s", program, places[i], name);
      if (written > 0 && (size_t)written < capacity && access(path, R_OK) == 0) return MB_OK;
    }
  }
  return mb_fail(MB_ERROR_IO, "%s is missing beside this program: install the package again", name);
}
