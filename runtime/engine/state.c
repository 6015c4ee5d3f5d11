/* A session's state in a file (state_file.h). The file may be anyone's: every number is compared with what this session
 * would have written before anything is changed. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/crc32.h"
#include "base/error.h"
#include "base/sizes.h"
#include "engine/cache_pieces.h"
#include "engine/file_writer.h"
#include "mobile_bundle/state_file.h"

enum { READ_BYTES = 256 << 10 };

/* A conversation is nobody else's business: only its owner may read the file. */
static const mb_file_purpose purpose = {
    .task = "saving the state",
    .no_space = "free some space, or choose another folder",
    .wish = "the state was to be saved",
    .no_access = "choose a folder that can",
    .no_folder = "make it, or choose another one",
    .mode = 0600,
    .read_soon = true,
};

static uint32_t version_of(const mb_session *session) {
  return session->layout.options.kv_type == MB_KV_INT4 ? MB_STATE_VERSION_INT4 : MB_STATE_VERSION;
}

/* The header of a state of this session; the content's checksum is still to come. */
static mb_status make_header(const mb_session *session, uint32_t position, uint32_t written, mb_state_header *header) {
  mb_cache_shape shape;
  mb_status status = mb_cache_shape_of(session, position, written, &shape);
  *header = (mb_state_header){
      .version = version_of(session),
      .file_bytes = sizeof *header + (uint64_t)position * sizeof(int32_t) + shape.bytes,
      .model_bytes = session->model->weights.file_bytes,
      .model_crc32 = session->model->weights.index_crc32,
      .layout = shape.fingerprint,
      .kv_type = (uint32_t)session->layout.options.kv_type,
      .position = position,
      .written = written,
  };
  memcpy(header->magic, MB_STATE_MAGIC, sizeof header->magic);
  return status;
}

static uint32_t header_crc(const mb_state_header *header) {
  mb_state_header blank = *header;
  blank.crc32 = 0;
  return mb_crc32(0, &blank, sizeof blank);
}

mb_status mb_session_state_bytes(const mb_session *session, uint32_t positions, uint64_t *bytes) {
  mb_state_header header;
  *bytes = 0;
  if (positions > session->layout.options.context)
    return mb_fail(MB_ERROR_ARGUMENT, "a state of %u tokens: the context has room for %u", positions,
                   session->layout.options.context);
  const uint32_t written = positions < session->written ? session->written : positions;
  mb_status status = make_header(session, positions, written, &header);
  if (status == MB_OK) *bytes = header.file_bytes;
  return status;
}

typedef struct {
  mb_file_writer writer;
  uint32_t crc;
} saving;

static mb_status append(saving *s, const void *data, size_t bytes) {
  s->crc = mb_crc32(s->crc, data, bytes);
  return mb_file_writer_append(&s->writer, data, bytes);
}

static mb_status append_piece(void *context, uint8_t *piece, size_t bytes) { return append(context, piece, bytes); }

mb_status mb_session_save(const mb_session *session, const int32_t *tokens, const char *path) {
  const uint32_t position = session->position;
  if (position == 0) return mb_fail(MB_ERROR_ARGUMENT, "there is no state to save: nothing has been read");
  if (!path[0]) return mb_fail(MB_ERROR_ARGUMENT, "saving the state needs the path of a file");
  mb_state_header header;
  mb_status status = make_header(session, position, session->written, &header);
  if (status != MB_OK) return status;
  saving *s = calloc(1, sizeof *s);
  if (!s) return mb_fail(MB_ERROR_MEMORY, "no memory to save the state");
  status = mb_file_writer_open(path, &purpose, header.file_bytes, &s->writer);
  if (status == MB_OK) status = mb_file_writer_seek(&s->writer, sizeof header);
  if (status == MB_OK) status = append(s, tokens, position * sizeof *tokens);
  if (status == MB_OK) status = mb_cache_pieces(session, position, session->written, append_piece, s);
  if (status == MB_OK) {
    header.content_crc32 = s->crc;
    header.crc32 = header_crc(&header);
    status = mb_file_writer_finish(&s->writer, &header, sizeof header);
  }
  mb_file_writer_close(&s->writer);
  free(s);
  return status;
}

static mb_status damaged(const char *path, const char *what) {
  return mb_fail(MB_ERROR_FORMAT, "%s is damaged (%s): remove it; the text will be read again", path, what);
}

typedef struct {
  const char *path;
  int fd;
  uint64_t at;
} source;

/* The next `bytes` of the file. */
static mb_status read_next(source *s, void *out, size_t bytes) {
  uint8_t *to = out;
  while (bytes > 0) {
    const ssize_t got = pread(s->fd, to, bytes, (off_t)s->at);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return mb_fail(MB_ERROR_IO, "%s: cannot be read: %s", s->path, strerror(errno));
    if (got == 0) return damaged(s->path, "it ends too soon");
    to += got;
    bytes -= (size_t)got;
    s->at += (uint64_t)got;
  }
  return MB_OK;
}

static mb_status read_piece(void *context, uint8_t *piece, size_t bytes) { return read_next(context, piece, bytes); }

/* What can be said by the header alone. */
static mb_status check_header(const mb_session *session, const source *s, uint64_t file_bytes,
                              const mb_state_header *h) {
  if (memcmp(h->magic, MB_STATE_MAGIC, sizeof h->magic) != 0)
    return mb_fail(MB_ERROR_FORMAT, "%s is no state of a session", s->path);
  if (h->version > MB_STATE_VERSION_INT4 || h->version < MB_STATE_VERSION)
    return mb_fail(MB_ERROR_FORMAT, "%s is a state of version %u, this runtime reads %u: remove it", s->path,
                   h->version, version_of(session));
  if (h->crc32 != header_crc(h)) return damaged(s->path, "its header's checksum");
  if (h->file_bytes != file_bytes) return damaged(s->path, "its size");
  if (h->position == 0 || h->written < h->position || h->reserved != 0) return damaged(s->path, "its header");
  if (h->model_bytes != session->model->weights.file_bytes || h->model_crc32 != session->model->weights.index_crc32)
    return mb_fail(MB_ERROR_FORMAT, "%s was saved with another model: remove it", s->path);
  if (h->kv_type != (uint32_t)session->layout.options.kv_type)
    return mb_fail(MB_ERROR_FORMAT, "%s was saved with another type of KV cache: use that, or remove it", s->path);
  if (h->version != version_of(session))
    return mb_fail(MB_ERROR_FORMAT, "%s is a state of version %u, this runtime reads %u: remove it", s->path,
                   h->version, version_of(session));
  if (h->written > session->layout.options.context)
    return mb_fail(MB_ERROR_FORMAT, "%s needs a context of %u tokens, this session has %u: use a larger one", s->path,
                   h->written, session->layout.options.context);
  mb_state_header own;
  mb_status status = make_header(session, h->position, h->written, &own);
  if (status != MB_OK) return status;
  if (h->layout != own.layout)
    return mb_fail(MB_ERROR_FORMAT,
                   "%s was saved with another context or prefill chunk, on which the layers with a window depend: use "
                   "the same, or remove it",
                   s->path);
  return h->file_bytes == own.file_bytes ? MB_OK : damaged(s->path, "its size");
}

/* Reads all of it once before the session changes. */
static mb_status check_content(source *s, const mb_state_header *h) {
  uint8_t *buffer = malloc(READ_BYTES);
  if (!buffer) return mb_fail(MB_ERROR_MEMORY, "no memory to read a state");
  uint32_t crc = 0;
  mb_status status = MB_OK;
  while (status == MB_OK && s->at < h->file_bytes) {
    const uint64_t rest = h->file_bytes - s->at;
    const size_t part = rest < READ_BYTES ? (size_t)rest : READ_BYTES;
    status = read_next(s, buffer, part);
    if (status == MB_OK) crc = mb_crc32(crc, buffer, part);
  }
  free(buffer);
  return status == MB_OK && crc != h->content_crc32 ? damaged(s->path, "its content's checksum") : status;
}

static mb_status read_tokens(const mb_session *session, source *s, const mb_state_header *h, int32_t *tokens) {
  s->at = sizeof *h;
  mb_status status = read_next(s, tokens, h->position * sizeof *tokens);
  for (uint32_t i = 0; i < h->position && status == MB_OK; i++) {
    if (tokens[i] < 0 || (uint32_t)tokens[i] >= session->model->weights.config.vocabulary)
      status = damaged(s->path, "its tokens");
  }
  return status;
}

static mb_status take_over(mb_session *session, source *s, const mb_state_header *h) {
  session->position = session->written = 0;
  mb_status status = mb_cache_pieces(session, h->position, h->written, read_piece, s);
  if (status != MB_OK) return status;
  session->position = h->position;
  session->written = h->written;
  return MB_OK;
}

static mb_status resume(mb_session *session, source *s, int32_t *tokens, uint32_t *count) {
  struct stat st;
  if (fstat(s->fd, &st) != 0 || !S_ISREG(st.st_mode)) return mb_fail(MB_ERROR_IO, "%s: not a regular file", s->path);
  mb_state_header header;
  if ((uint64_t)st.st_size < sizeof header) return damaged(s->path, "it is too short");
  mb_status status = read_next(s, &header, sizeof header);
  if (status == MB_OK) status = check_header(session, s, (uint64_t)st.st_size, &header);
  if (status == MB_OK) status = check_content(s, &header);
  if (status != MB_OK) return status;
  int32_t *read = malloc(header.position * sizeof *read); /* the caller's are those of the session until it changes */
  if (!read) return mb_fail(MB_ERROR_MEMORY, "no memory for a state of %u tokens", header.position);
  status = read_tokens(session, s, &header, read);
  if (status == MB_OK) status = take_over(session, s, &header);
  if (status == MB_OK) {
    memcpy(tokens, read, header.position * sizeof *read);
    *count = header.position;
  }
  free(read);
  return status;
}

mb_status mb_session_resume(mb_session *session, const char *path, int32_t *tokens, uint32_t *count) {
  *count = 0;
  source s = {.path = path, .fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  if (s.fd < 0) return mb_fail(MB_ERROR_IO, "%s: %s", path, strerror(errno));
  mb_status status = resume(session, &s, tokens, count);
  close(s.fd);
  return status;
}
