/* What a Tollgate policy pack written in C depends on: the interface of policy.wit over the canonical ABI.
 *
 * A pack defines TG_CONFIGURE and some of TG_ON_REQUEST, TG_ON_RESPONSE and TG_COST, each once, in one source file:
 *
 *     #include "tollgate_pack.h"
 *
 *     TG_CONFIGURE(settings) { (void)settings; return tg_ok(); }
 *
 *     TG_ON_REQUEST(request) {
 *       if (tg_is_there(tg_header(request, TG("x-id")))) return tg_continue();
 *       return tg_deny(TG("header_missing"), TG("A header is missing."));
 *     }
 *
 * List the same phases in pack.yaml. `tollgate pack build` compiles it with clang or with the Python package `ziglang`; it
 * needs no C library.
 *
 * Memory: everything that a function here returns lives until the decision is made, in an arena that starts anew with each
 * decision. What TG_CONFIGURE leaves behind in variables and in the arena stays, for every decision.
 */
#ifndef TOLLGATE_PACK_H
#define TOLLGATE_PACK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TG_INLINE static inline __attribute__((unused))
#define TG_IMPORT(interface, name) \
  __attribute__((import_module("tollgate:policy/" interface "@1.0.0"), import_name(name))) extern
#define TG_EXPORT(name) __attribute__((export_name(name)))

/* ----- values ----- */

/* Text or bytes: not ended by a zero. Nothing at all, such as a header that isn't there, has no address. */
typedef struct {
  const char *at;
  size_t length;
} tg_slice;

/* Several of them. */
typedef struct {
  const tg_slice *at;
  size_t length;
} tg_slices;

/* A slice of a string literal. */
#define TG(literal) ((tg_slice){(literal), sizeof(literal) - 1})

/* The exchange that is judged; lent for one decision. */
typedef struct {
  int32_t handle;
} tg_request;
typedef struct {
  int32_t handle;
} tg_response;

/* A header line; or a detail of a refusal and its JSON text. */
typedef struct {
  tg_slice name;
  tg_slice value;
} tg_line;

/* A change of a header. */
typedef struct {
  uint8_t kind; /* 0 sets, 1 appends, 2 removes */
  tg_line line;
} tg_change;

/* What a pack decides: made by tg_continue, tg_edit, tg_deny and tg_answer. */
typedef struct {
  uint8_t kind;
  union {
    struct {
      tg_change *changes;
      size_t count;
      uint8_t has_body;
      tg_slice body;
    } edit;
    struct {
      uint8_t has_status;
      uint16_t status;
      tg_slice reason;
      tg_slice message;
      tg_line *details;
      size_t count;
    } deny;
    struct {
      uint16_t status;
      tg_line *headers;
      size_t count;
      tg_slice body;
    } answer;
  } as;
} tg_decision;

/* What came of TG_CONFIGURE: made by tg_ok and tg_refuse. */
typedef struct {
  uint8_t refused;
  tg_slice message;
} tg_result;

/* A number that may be missing. */
typedef struct {
  uint8_t is_there;
  uint64_t value;
} tg_number;

/* A time of day somewhere. */
typedef struct {
  int16_t year;
  uint8_t month;   /* 1 to 12 */
  uint8_t day;     /* 1 to 31 */
  uint8_t weekday; /* 1 for Monday to 7 for Sunday */
  uint8_t hour;
  uint8_t minute;
  uint8_t second;
} tg_time;

typedef struct {
  uint8_t is_there;
  tg_slice value;
} tg_maybe_slice;
typedef struct {
  uint8_t is_there;
  tg_time value;
} tg_maybe_time;

_Static_assert(sizeof(tg_decision) == 32, "the canonical ABI of `decision`");
_Static_assert(sizeof(tg_change) == 20 && sizeof(tg_line) == 16, "the canonical ABI of headers");
_Static_assert(sizeof(tg_maybe_time) == 10 && sizeof(tg_number) == 16, "the canonical ABI of options");

/* ----- the arena ----- */

extern char __heap_base;
static char *tg_arena_top = &__heap_base;
static char *tg_arena_mark; /* where decisions begin */

/* Memory that lives until the decision is made. More than the host allows ends the decision. */
TG_INLINE void *tg_allocate(size_t size, size_t align) {
  char *at = (char *)(((uintptr_t)tg_arena_top + align - 1) & ~(uintptr_t)(align - 1));
  size_t has = __builtin_wasm_memory_size(0) << 16;
  if ((size_t)at > SIZE_MAX - size) __builtin_trap();
  if ((size_t)at + size > has) {
    size_t pages = ((size_t)at + size - has + 0xffff) >> 16;
    if (__builtin_wasm_memory_grow(0, pages) == SIZE_MAX) __builtin_trap();
  }
  tg_arena_top = at + size;
  return at;
}

TG_INLINE void tg_copy(void *to, const void *from, size_t length) { __builtin_memcpy(to, from, length); }

TG_EXPORT("cabi_realloc") void *tg_reallocate(void *old, size_t old_size, size_t align, size_t size) {
  void *at = tg_allocate(size, align);
  if (old_size) tg_copy(at, old, old_size < size ? old_size : size);
  return at;
}

/* ----- text ----- */

TG_INLINE bool tg_is_there(tg_slice slice) { return slice.at != NULL; }

TG_INLINE bool tg_equals(tg_slice one, tg_slice other) {
  if (one.length != other.length) return false;
  for (size_t i = 0; i < one.length; i++) {
    if (one.at[i] != other.at[i]) return false;
  }
  return true;
}

TG_INLINE bool tg_starts_with(tg_slice slice, tg_slice start) {
  return slice.length >= start.length && tg_equals((tg_slice){slice.at, start.length}, start);
}

TG_INLINE tg_slice tg_concat(tg_slice one, tg_slice other) {
  char *at = tg_allocate(one.length + other.length, 1);
  tg_copy(at, one.at, one.length);
  tg_copy(at + one.length, other.at, other.length);
  return (tg_slice){at, one.length + other.length};
}

/* The number in decimal digits, which is its JSON text as well. */
TG_INLINE tg_slice tg_digits(uint64_t number) {
  char *end = (char *)tg_allocate(20, 1) + 20, *at = end;
  do {
    *--at = (char)('0' + number % 10);
    number /= 10;
  } while (number);
  return (tg_slice){at, (size_t)(end - at)};
}

/* The number that decimal digits say; not there when they are none, or are too many. */
TG_INLINE tg_number tg_parse(tg_slice digits) {
  uint64_t value = 0;
  if (!tg_is_there(digits) || digits.length == 0 || digits.length > 19) return (tg_number){0, 0};
  for (size_t i = 0; i < digits.length; i++) {
    if (digits.at[i] < '0' || digits.at[i] > '9') return (tg_number){0, 0};
    value = value * 10 + (uint64_t)(digits.at[i] - '0');
  }
  return (tg_number){1, value};
}

/* How many bytes of UTF-8 the character has that begins here; 0 where none does. */
TG_INLINE size_t tg_character(const char *at, size_t length) {
  const unsigned char *of = (const unsigned char *)at;
  unsigned char first = of[0];
  if (first < 0x80) return 1;
  size_t size = first < 0xc2 ? 0 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : first < 0xf5 ? 4 : 0;
  if (size == 0 || size > length) return 0;
  for (size_t i = 1; i < size; i++) {
    if ((of[i] & 0xc0) != 0x80) return 0;
  }
  /* Longer than need be, a surrogate, or beyond Unicode. */
  bool wrong = (first == 0xe0 && of[1] < 0xa0) || (first == 0xed && of[1] > 0x9f) || (first == 0xf0 && of[1] < 0x90) ||
               (first == 0xf4 && of[1] > 0x8f);
  return wrong ? 0 : size;
}

/* The text with U+FFFD for each byte that is not UTF-8. A reason, a message and a detail must be UTF-8; what a client sends
 * may not be. */
TG_INLINE tg_slice tg_utf8(tg_slice bytes) {
  char *start = tg_allocate(bytes.length * 3, 1), *to = start;
  for (size_t i = 0; i < bytes.length;) {
    size_t size = tg_character(bytes.at + i, bytes.length - i);
    tg_copy(to, size ? bytes.at + i : "\xef\xbf\xbd", size ? size : 3);
    to += size ? size : 3;
    i += size ? size : 1;
  }
  return (tg_slice){start, (size_t)(to - start)};
}

/* ----- JSON: settings, claims, details ----- */

/* The JSON text of a string; with U+FFFD for each byte that is not UTF-8. */
TG_INLINE tg_slice tg_json_quote(tg_slice bytes) {
  static const char hex[] = "0123456789abcdef";
  tg_slice text = tg_utf8(bytes);
  char *start = tg_allocate(text.length * 6 + 2, 1), *to = start;
  *to++ = '"';
  for (size_t i = 0; i < text.length; i++) {
    unsigned char c = (unsigned char)text.at[i];
    if (c == '"' || c == '\\') {
      *to++ = '\\';
      *to++ = (char)c;
    } else if (c < 0x20) {
      tg_copy(to, "\\u00", 4);
      to[4] = hex[c >> 4];
      to[5] = hex[c & 15];
      to += 6;
    } else {
      *to++ = (char)c;
    }
  }
  *to++ = '"';
  return (tg_slice){start, (size_t)(to - start)};
}

TG_INLINE const char *tg_json_skip_space(const char *at, const char *end) {
  while (at < end && (*at == ' ' || *at == '\n' || *at == '\r' || *at == '\t')) at++;
  return at;
}

/* The end of the value that starts here. The host gives well-formed JSON. */
TG_INLINE const char *tg_json_end(const char *at, const char *end) {
  size_t depth = 0;
  do {
    at = tg_json_skip_space(at, end);
    if (at >= end) return end;
    if (*at == '"') {
      for (at++; at < end && *at != '"'; at++) at += *at == '\\';
      at++;
    } else if (*at == '{' || *at == '[') {
      depth++;
      at++;
    } else if (*at == '}' || *at == ']') {
      depth--;
      at++;
    } else if (*at == ',' || *at == ':') {
      at++;
    } else {
      while (at < end && *at != ',' && *at != '}' && *at != ']' && *at > ' ') at++;
    }
  } while (depth && at < end);
  return at < end ? at : end;
}

/* The next item of the array's text that `*rest` begins with, and sets `*rest` to what follows it; not there at the end. Begin
 * with the whole array. */
TG_INLINE tg_slice tg_json_next(tg_slice *rest) {
  const char *end = rest->at + rest->length, *at = tg_json_skip_space(rest->at, end);
  if (at < end && (*at == '[' || *at == ',')) at = tg_json_skip_space(at + 1, end);
  if (at >= end || *at == ']') return (tg_slice){NULL, 0};
  const char *after = tg_json_end(at, end);
  *rest = (tg_slice){after, (size_t)(end - after)};
  return (tg_slice){at, (size_t)(after - at)};
}

/* The JSON text of an object's member; not there when the object hasn't got it. Its name holds nothing to escape. */
TG_INLINE tg_slice tg_json_member(tg_slice object, tg_slice name) {
  const char *end = object.at + object.length, *at = tg_json_skip_space(object.at, end);
  if (at >= end || *at != '{') return (tg_slice){NULL, 0};
  for (at++;;) {
    at = tg_json_skip_space(at, end);
    if (at >= end || *at != '"') return (tg_slice){NULL, 0};
    const char *after = tg_json_end(at, end);
    tg_slice key = {at + 1, (size_t)(after - at) - 2};
    at = tg_json_skip_space(tg_json_skip_space(after, end) + 1, end);
    after = tg_json_end(at, end);
    if (tg_equals(key, name)) return (tg_slice){at, (size_t)(after - at)};
    at = tg_json_skip_space(after, end);
    if (at < end && *at == ',') at++;
  }
}

TG_INLINE uint32_t tg_json_hex(const char *at) {
  uint32_t value = 0;
  for (int i = 0; i < 4; i++) {
    char c = at[i];
    value = value << 4 | (uint32_t)(c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10);
  }
  return value;
}

/* The text of a JSON string; not there for any other value. */
TG_INLINE tg_slice tg_json_text(tg_slice json) {
  if (!tg_is_there(json) || json.length < 2 || json.at[0] != '"') return (tg_slice){NULL, 0};
  char *start = tg_allocate(json.length, 1), *to = start;
  const char *at = json.at + 1, *end = json.at + json.length - 1;
  while (at < end) {
    if (*at != '\\') {
      *to++ = *at++;
      continue;
    }
    char escape = at[1];
    at += 2;
    if (escape != 'u') {
      *to++ = escape == 'n' ? '\n' : escape == 't' ? '\t' : escape == 'r' ? '\r' : escape == 'b' ? '\b' : escape == 'f' ? '\f' : escape;
      continue;
    }
    uint32_t c = tg_json_hex(at);
    at += 4;
    if (c >= 0xd800 && c < 0xdc00 && at + 6 <= end && at[0] == '\\' && at[1] == 'u') {
      uint32_t low = tg_json_hex(at + 2);
      if (low >= 0xdc00 && low < 0xe000) {
        c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
        at += 6;
      }
    }
    if (c >= 0xd800 && c < 0xe000) c = 0xfffd; /* half of a pair */
    if (c < 0x80) {
      *to++ = (char)c;
    } else {
      if (c < 0x800) {
        *to++ = (char)(0xc0 | c >> 6);
      } else {
        if (c < 0x10000) {
          *to++ = (char)(0xe0 | c >> 12);
        } else {
          *to++ = (char)(0xf0 | c >> 18);
          *to++ = (char)(0x80 | (c >> 12 & 0x3f));
        }
        *to++ = (char)(0x80 | (c >> 6 & 0x3f));
      }
      *to++ = (char)(0x80 | (c & 0x3f));
    }
  }
  return (tg_slice){start, (size_t)(to - start)};
}

/* ----- decisions ----- */

/* Settings are taken. */
TG_INLINE tg_result tg_ok(void) { return (tg_result){0, {NULL, 0}}; }

/* Settings are refused. The message says how to mend them. */
TG_INLINE tg_result tg_refuse(tg_slice message) { return (tg_result){1, message}; }

/* Nothing to add. */
TG_INLINE tg_decision tg_continue(void) { return (tg_decision){.kind = 0}; }

/* Go on with changes, which tg_set, tg_append, tg_remove and tg_body add. */
TG_INLINE tg_decision tg_edit(void) { return (tg_decision){.kind = 1}; }

/* Refuse, with status 403 or what tg_status says. `reason` is for programs (lower_snake), `message` for people. */
TG_INLINE tg_decision tg_deny(tg_slice reason, tg_slice message) {
  tg_decision made = {.kind = 2};
  made.as.deny.reason = reason;
  made.as.deny.message = message;
  return made;
}

/* Answer in place of the upstream, with what tg_header_of_answer and tg_body add. */
TG_INLINE tg_decision tg_answer(uint16_t status) {
  tg_decision made = {.kind = 3};
  made.as.answer.status = status;
  return made;
}

/* Makes room for one more in an array of this many. */
TG_INLINE void *tg_room(void *at, size_t count, size_t size) {
  if (count % 8) return at;
  void *larger = tg_allocate((count + 8) * size, 4);
  if (count) tg_copy(larger, at, count * size);
  return larger;
}

TG_INLINE void tg_change_header(tg_decision *edit, uint8_t kind, tg_slice name, tg_slice value) {
  edit->as.edit.changes = tg_room(edit->as.edit.changes, edit->as.edit.count, sizeof(tg_change));
  edit->as.edit.changes[edit->as.edit.count++] = (tg_change){kind, {name, value}};
}

/* Has an edit replace every line of this name by one. */
TG_INLINE void tg_set(tg_decision *edit, tg_slice name, tg_slice value) { tg_change_header(edit, 0, name, value); }

/* Has an edit add a line. */
TG_INLINE void tg_append(tg_decision *edit, tg_slice name, tg_slice value) { tg_change_header(edit, 1, name, value); }

/* Has an edit remove every line of this name. */
TG_INLINE void tg_remove(tg_decision *edit, tg_slice name) { tg_change_header(edit, 2, name, (tg_slice){"", 0}); }

/* Gives an edit or an answer a body. An edit's needs `body` in pack.yaml. */
TG_INLINE void tg_body(tg_decision *decision, tg_slice body) {
  if (decision->kind == 1) {
    decision->as.edit.has_body = 1;
    decision->as.edit.body = body;
  } else if (decision->kind == 3) {
    decision->as.answer.body = body;
  }
}

/* Chooses a refusal's status, 400 to 499. */
TG_INLINE void tg_status(tg_decision *denial, uint16_t status) {
  denial->as.deny.has_status = 1;
  denial->as.deny.status = status;
}

/* Adds a detail to a refusal: a name and a JSON text, as tg_json_quote and tg_digits make it. */
TG_INLINE void tg_detail(tg_decision *denial, tg_slice name, tg_slice json) {
  denial->as.deny.details = tg_room(denial->as.deny.details, denial->as.deny.count, sizeof(tg_line));
  denial->as.deny.details[denial->as.deny.count++] = (tg_line){name, json};
}

/* Adds a header to an answer. */
TG_INLINE void tg_header_of_answer(tg_decision *answer, tg_slice name, tg_slice value) {
  answer->as.answer.headers = tg_room(answer->as.answer.headers, answer->as.answer.count, sizeof(tg_line));
  answer->as.answer.headers[answer->as.answer.count++] = (tg_line){name, value};
}

/* ----- the exchange ----- */

#define TG_GETTER(function, resource, name, type, result)                                     \
  TG_IMPORT("exchange", "[method]" #resource "." name)                                        \
  void tg_import_##function(int32_t handle, type *to);                                        \
  TG_INLINE result function(tg_##resource of) {                                               \
    type to;                                                                                  \
    tg_import_##function(of.handle, &to);                                                     \
    return TG_RESULT_##type(to);                                                              \
  }
#define TG_GETTER_OF(function, resource, name, type, result)                                  \
  TG_IMPORT("exchange", "[method]" #resource "." name)                                        \
  void tg_import_##function(int32_t handle, const char *at, size_t length, type *to);         \
  TG_INLINE result function(tg_##resource of, tg_slice key) {                                 \
    type to;                                                                                  \
    tg_import_##function(of.handle, key.at, key.length, &to);                                 \
    return TG_RESULT_##type(to);                                                              \
  }
#define TG_RESULT_tg_slice(to) to
#define TG_RESULT_tg_slices(to) to
#define TG_RESULT_tg_number(to) to
#define TG_RESULT_tg_maybe_slice(to) ((to).is_there ? (to).value : (tg_slice){NULL, 0})

TG_GETTER(tg_method, request, "method", tg_slice, tg_slice)
TG_GETTER(tg_path, request, "path", tg_slice, tg_slice)
TG_GETTER(tg_query, request, "query", tg_maybe_slice, tg_slice)
TG_GETTER_OF(tg_query_param, request, "query-param", tg_maybe_slice, tg_slice)
TG_GETTER_OF(tg_header, request, "header", tg_maybe_slice, tg_slice)
TG_GETTER_OF(tg_headers_all, request, "headers-all", tg_slices, tg_slices)
TG_GETTER(tg_header_names, request, "header-names", tg_slices, tg_slices)
TG_GETTER(tg_request_body, request, "body", tg_maybe_slice, tg_slice) /* needs `body: [request]` in pack.yaml */
TG_GETTER(tg_body_size, request, "body-size", tg_number, tg_number)
TG_GETTER(tg_client_address, request, "client-address", tg_slice, tg_slice)
TG_GETTER(tg_route, request, "route", tg_slice, tg_slice)
TG_GETTER(tg_version, request, "version", tg_slice, tg_slice)
TG_GETTER(tg_tenant, request, "tenant", tg_slice, tg_slice)
TG_GETTER(tg_plan, request, "plan", tg_slice, tg_slice)
TG_GETTER(tg_consumer, request, "consumer", tg_slice, tg_slice)
TG_GETTER(tg_scopes, request, "scopes", tg_slices, tg_slices)
TG_GETTER_OF(tg_claim, request, "claim", tg_maybe_slice, tg_slice) /* JSON text */

TG_GETTER_OF(tg_response_header, response, "header", tg_maybe_slice, tg_slice)
TG_GETTER_OF(tg_response_headers_all, response, "headers-all", tg_slices, tg_slices)
TG_GETTER(tg_response_header_names, response, "header-names", tg_slices, tg_slices)
TG_GETTER(tg_response_body, response, "body", tg_maybe_slice, tg_slice) /* needs `body: [response]` in pack.yaml */

TG_IMPORT("exchange", "[method]response.status") int32_t tg_import_response_status(int32_t handle);
TG_INLINE uint16_t tg_response_status(tg_response of) { return (uint16_t)tg_import_response_status(of.handle); }

TG_IMPORT("exchange", "[resource-drop]request") void tg_import_request_drop(int32_t handle);
TG_IMPORT("exchange", "[resource-drop]response") void tg_import_response_drop(int32_t handle);

/* ----- the host; each function needs its capability in pack.yaml ----- */

enum tg_level { TG_DEBUG, TG_INFO, TG_WARN, TG_ERROR };

/* Writes a line to the operator's log. Capability `log`. */
TG_IMPORT("log", "write") void tg_import_log(int32_t level, const char *at, size_t length);
TG_INLINE void tg_log(enum tg_level level, tg_slice message) { tg_import_log(level, message.at, message.length); }

/* The time of the exchange in microseconds since the Unix epoch. Capability `clock`. */
TG_IMPORT("clock", "now") int64_t tg_import_now(void);
TG_INLINE uint64_t tg_now(void) { return (uint64_t)tg_import_now(); }

/* The same in this time zone, or in the tenant's for a zone that isn't there; false for one that is not known. `clock`. */
TG_IMPORT("clock", "local") void tg_import_local(int32_t some, const char *at, size_t length, tg_maybe_time *to);
TG_INLINE bool tg_local(tg_slice zone, tg_time *time) {
  tg_maybe_time to;
  tg_import_local(tg_is_there(zone), zone.at, zone.length, &to);
  if (to.is_there) *time = to.value;
  return to.is_there;
}

/* The next 64 random bits, seeded by the request. Capability `random`. */
TG_IMPORT("random", "next") int64_t tg_import_random(void);
TG_INLINE uint64_t tg_random(void) { return (uint64_t)tg_import_random(); }

/* What operators keep for the pack under this key. Capability `data`. */
TG_IMPORT("data", "get") void tg_import_data(const char *at, size_t length, tg_maybe_slice *to);
TG_INLINE tg_slice tg_data(tg_slice key) {
  tg_maybe_slice to;
  tg_import_data(key.at, key.length, &to);
  return TG_RESULT_tg_maybe_slice(to);
}

/* Adds to a counter and tells what it is then; not there when there are too many. Capability `counters`. */
TG_IMPORT("counters", "add") void tg_import_count(const char *at, size_t length, int64_t by, tg_number *to);
TG_INLINE tg_number tg_count(tg_slice name, uint64_t by) {
  tg_number to;
  tg_import_count(name.at, name.length, (int64_t)by, &to);
  return to;
}

/* ----- exports ----- */

static tg_decision tg_last; /* the host reads it after the call has returned */

/* Takes the settings, a JSON text that fits settings.schema.json, and returns tg_ok() or tg_refuse(message). */
#define TG_CONFIGURE(settings)                                                                \
  static tg_result tg_configure(tg_slice settings);                                           \
  TG_EXPORT("configure") const tg_result *tg_export_configure(const char *at, size_t length) { \
    static tg_result result;                                                                  \
    result = tg_configure((tg_slice){at, length});                                            \
    tg_arena_mark = tg_arena_top;                                                             \
    return &result;                                                                           \
  }                                                                                           \
  static tg_result tg_configure(tg_slice settings)

/* Decides about one request. Phase `request`. */
#define TG_ON_REQUEST(request)                                                                \
  static tg_decision tg_on_request(tg_request request);                                       \
  TG_EXPORT("on-request") const tg_decision *tg_export_on_request(int32_t handle) {           \
    tg_arena_top = tg_arena_mark;                                                             \
    tg_last = tg_on_request((tg_request){handle});                                            \
    tg_import_request_drop(handle);                                                           \
    return &tg_last;                                                                          \
  }                                                                                           \
  static tg_decision tg_on_request(tg_request request)

/* Decides about one response. Phase `response`. */
#define TG_ON_RESPONSE(request, response)                                                     \
  static tg_decision tg_on_response(tg_request request, tg_response response);                \
  TG_EXPORT("on-response") const tg_decision *tg_export_on_response(int32_t one, int32_t other) { \
    tg_arena_top = tg_arena_mark;                                                             \
    tg_last = tg_on_response((tg_request){one}, (tg_response){other});                        \
    tg_import_request_drop(one);                                                              \
    tg_import_response_drop(other);                                                           \
    return &tg_last;                                                                          \
  }                                                                                           \
  static tg_decision tg_on_response(tg_request request, tg_response response)

/* Says what a request costs, in units of the plan's limits. Phase `cost`. */
#define TG_COST(request)                                                                      \
  static uint32_t tg_cost(tg_request request);                                                \
  TG_EXPORT("cost") uint32_t tg_export_cost(int32_t handle) {                                 \
    tg_arena_top = tg_arena_mark;                                                             \
    uint32_t units = tg_cost((tg_request){handle});                                           \
    tg_import_request_drop(handle);                                                           \
    return units;                                                                             \
  }                                                                                           \
  static uint32_t tg_cost(tg_request request)

#endif
