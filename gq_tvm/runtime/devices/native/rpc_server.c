/* A TVM RPC server that needs no Python on the device.
 *
 *   rpc_server [--until-eof] HOST PORT LIBRARY...
 *
 * Loads the LIBRARY files (libtvm_ffi.so, libtvm_runtime.so, ...) once, listens on HOST:PORT (port
 * 0: any free one) and forks a process for each connection, so that a kernel that crashes ends its
 * own session and nothing else; a session whose client has left is ended. With --until-eof it
 * leaves when its standard input closes, that is, when whoever started it is gone. It reports on
 * standard output, a line an event:
 *
 *   listening PORT
 *   session PID exit CODE | session PID signal NUMBER | session PID abandoned
 *
 * The handshake is that of tvm/rpc/server.py in TVM 0.27; what follows it is TVM's own
 * rpc.ServerLoop. The protocol has no authentication: whoever reaches the port runs code on the
 * device.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <ftw.h>
#include <limits.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <tvm/ffi/c_api.h>
#include <unistd.h>

enum { RPC_MAGIC = 0xFF271, RPC_MISMATCH = RPC_MAGIC + 2, MAX_SESSIONS = 16 };
enum { GRACE = 2 }; /* seconds a session may go on when its client has left */

static void die(const char* what, const char* detail) {
  fprintf(stderr, "rpc_server: %s: %s\n", what, detail);
  exit(1);
}

/* TVM's C interface, looked up at run time: the server links against nothing but the C library. */
static __typeof__(TVMFFIFunctionCreate)* function_create;
static __typeof__(TVMFFIFunctionSetGlobal)* function_set_global;
static __typeof__(TVMFFIFunctionGetGlobal)* function_get_global;
static __typeof__(TVMFFIFunctionCall)* function_call;
static __typeof__(TVMFFIStringFromByteArray)* string_from_bytes;
static __typeof__(TVMFFIObjectIncRef)* object_inc_ref;
static __typeof__(TVMFFIErrorSetRaisedFromCStr)* error_set;

static void* symbol(const char* name) {
  void* address = dlsym(RTLD_DEFAULT, name);
  if (!address) die("no such symbol in the libraries", name);
  return address;
}

static void load(char** libraries) {
  for (; *libraries; ++libraries)
    if (!dlopen(*libraries, RTLD_NOW | RTLD_GLOBAL)) die("cannot load", dlerror());
  function_create = symbol("TVMFFIFunctionCreate");
  function_set_global = symbol("TVMFFIFunctionSetGlobal");
  function_get_global = symbol("TVMFFIFunctionGetGlobal");
  function_call = symbol("TVMFFIFunctionCall");
  string_from_bytes = symbol("TVMFFIStringFromByteArray");
  object_inc_ref = symbol("TVMFFIObjectIncRef");
  error_set = symbol("TVMFFIErrorSetRaisedFromCStr");
}

static int call(const char* name, TVMFFIAny* arguments, int count, TVMFFIAny* result) {
  TVMFFIByteArray key = {name, strlen(name)};
  TVMFFIObjectHandle function = NULL;
  memset(result, 0, sizeof *result);
  if (function_get_global(&key, &function) || !function) die("no such function in TVM", name);
  return function_call(function, arguments, count, result);
}

/* The functions TVM's RPC session expects of a server. */
static char folder[PATH_MAX]; /* of the files uploaded in this session */

static int as_path(const TVMFFIAny* name, char path[PATH_MAX]) {
  const char* text = "";
  int size = 0;
  if (name->type_index == kTVMFFIRawStr) {
    text = name->v_c_str;
    size = (int)strlen(text);
  } else if (name->type_index == kTVMFFISmallStr) {
    text = name->v_bytes;
    size = (int)name->small_str_len;
  } else if (name->type_index == kTVMFFIStr) {
    const TVMFFIByteArray* bytes =
        (const TVMFFIByteArray*)((char*)name->v_obj + sizeof(TVMFFIObject));
    text = bytes->data;
    size = (int)bytes->size;
  }
  if (snprintf(path, PATH_MAX, "%s/%.*s", folder, size, text) < PATH_MAX) return 0;
  error_set("ValueError", "the file name is too long");
  return -1;
}

static int path_of(const char* path, TVMFFIAny* result) {
  TVMFFIByteArray bytes = {path, strlen(path)};
  return string_from_bytes(&bytes, result);
}

static int workpath(void* self, const TVMFFIAny* arguments, int32_t count, TVMFFIAny* result) {
  char path[PATH_MAX];
  return as_path(arguments, path) ? -1 : path_of(path, result);
}

static int load_module(void* self, const TVMFFIAny* arguments, int32_t count, TVMFFIAny* result) {
  char path[PATH_MAX];
  TVMFFIAny name;
  if (as_path(arguments, path) || path_of(path, &name)) return -1;
  int code = call("ffi.ModuleLoadFromFile", &name, 1, result);
  /* Values that code in the module created may outlive the client's handle: never unload it. */
  if (code == 0 && result->type_index == kTVMFFIModule) object_inc_ref(result->v_obj);
  return code;
}

static void define(const char* name, TVMFFISafeCallType function) {
  TVMFFIByteArray key = {name, strlen(name)};
  TVMFFIObjectHandle handle = NULL;
  if (function_create(NULL, function, NULL, &handle) || function_set_global(&key, handle, 1))
    die("cannot register", name);
}

/* A session: handshake, then TVM's loop until the client leaves. */
static int transfer(int connection, void* data, size_t size, int sending) {
  for (char* at = data; size;) {
    ssize_t done =
        sending ? send(connection, at, size, MSG_NOSIGNAL) : recv(connection, at, size, 0);
    if (done <= 0) return -1;
    at += done;
    size -= (size_t)done;
  }
  return 0;
}

static int handshake(int connection) {
  int32_t magic = 0, length = 0, reply = RPC_MAGIC;
  char key[256] = {0}, server[] = "server:";
  if (transfer(connection, &magic, 4, 0) || magic != RPC_MAGIC) return -1;
  if (transfer(connection, &length, 4, 0) || length < 0 || length >= (int)sizeof key) return -1;
  if (transfer(connection, key, (size_t)length, 0)) return -1;
  char* options = strchr(key, ' ');
  if (options) *options++ = 0;
  if (strcmp(key, "client:")) reply = RPC_MISMATCH;
  if (transfer(connection, &reply, 4, 1) || reply != RPC_MAGIC) return -1;
  length = (int32_t)strlen(server);
  if (transfer(connection, &length, 4, 1) || transfer(connection, server, (size_t)length, 1))
    return -1;
  const char* timeout = options ? strstr(options, "-timeout=") : NULL;
  if (timeout) alarm((unsigned)atof(timeout + 9)); /* SIGALRM ends the session; 0 means never */
  return 0;
}

static void serve(int connection) {
  int yes = 1;
  prctl(PR_SET_PDEATHSIG, SIGKILL); /* no session outlives the server */
  setsockopt(connection, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
  if (handshake(connection)) exit(0); /* not a client of ours */
  if (chdir(folder)) die("cannot use", folder);
  define("tvm.rpc.server.workpath", workpath);
  define("tvm.rpc.server.load_module", load_module);
  TVMFFIAny socket_number = {.type_index = kTVMFFIInt, .v_int64 = connection}, result;
  _exit(call("rpc.ServerLoop", &socket_number, 1, &result) ? 1 : 0);
}

/* The server: accept, fork, report. */
static struct {
  pid_t pid;
  int connection;
  time_t left;
  char folder[PATH_MAX];
} sessions[MAX_SESSIONS];

static int delete_entry(const char* path, const struct stat* about, int kind, struct FTW* where) {
  return remove(path);
}

static void reap(void) {
  int status;
  for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;)
    for (int i = 0; i < MAX_SESSIONS; ++i)
      if (sessions[i].pid == pid) {
        sessions[i].pid = 0;
        nftw(sessions[i].folder, delete_entry, 8, FTW_DEPTH | FTW_PHYS);
        if (sessions[i].left && WIFSIGNALED(status)) printf("session %d abandoned\n", pid);
        else if (WIFSIGNALED(status)) printf("session %d signal %d\n", pid, WTERMSIG(status));
        else printf("session %d exit %d\n", pid, WEXITSTATUS(status));
        if (sessions[i].connection >= 0) close(sessions[i].connection);
      }
}

/* A kernel that never ends would keep a core busy, and spoil the timings of later sessions. */
static void end_abandoned(const struct pollfd* connections) {
  for (int i = 0; i < MAX_SESSIONS; ++i) {
    if (!sessions[i].pid) continue;
    if (sessions[i].connection >= 0 && connections[i].revents) { /* its client has left */
      sessions[i].left = time(NULL);
      close(sessions[i].connection);
      sessions[i].connection = -1;
    }
    if (sessions[i].left && time(NULL) - sessions[i].left >= GRACE) kill(sessions[i].pid, SIGKILL);
  }
}

static void wake(int signal) {} /* poll returns when a session ends */

static void leave(int signal) {
  for (int i = 0; i < MAX_SESSIONS; ++i)
    if (sessions[i].pid) {
      kill(sessions[i].pid, SIGKILL);
      waitpid(sessions[i].pid, NULL, 0);
      nftw(sessions[i].folder, delete_entry, 8, FTW_DEPTH | FTW_PHYS);
    }
  _exit(0);
}

static void start_session(int listener) {
  int connection = accept(listener, NULL, NULL), slot = 0;
  if (connection < 0) return;
  while (slot < MAX_SESSIONS && sessions[slot].pid) ++slot;
  const char* parent = getenv("TMPDIR");
  snprintf(folder, sizeof folder, "%s/gq-rpc-XXXXXX", parent ? parent : "/tmp");
  if (slot < MAX_SESSIONS && mkdtemp(folder)) {
    strcpy(sessions[slot].folder, folder);
    sessions[slot].connection = connection;
    sessions[slot].left = 0;
    if ((sessions[slot].pid = fork()) == 0) {
      close(listener);
      signal(SIGTERM, SIG_DFL);
      signal(SIGINT, SIG_DFL);
      signal(SIGCHLD, SIG_DFL);
      for (int i = 0; i < MAX_SESSIONS; ++i)
        if (i != slot && sessions[i].pid && sessions[i].connection >= 0)
          close(sessions[i].connection);
      serve(connection);
    }
    if (sessions[slot].pid > 0) return;
    sessions[slot].pid = 0;
  }
  close(connection);
}

static int listen_on(const char* host, int port) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
  socklen_t size = sizeof address;
  int yes = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  if (inet_pton(AF_INET, host, &address.sin_addr) != 1) die("not an IPv4 address", host);
  if (bind(listener, (struct sockaddr*)&address, size) || listen(listener, 8)) {
    perror("rpc_server: cannot listen");
    exit(1);
  }
  getsockname(listener, (struct sockaddr*)&address, &size);
  printf("listening %d\n", ntohs(address.sin_port));
  return listener;
}

int main(int count, char** arguments) {
  int until_eof = count > 1 && !strcmp(arguments[1], "--until-eof");
  char** rest = arguments + 1 + until_eof;
  if (count - until_eof < 4) die("usage", "rpc_server [--until-eof] HOST PORT LIBRARY...");
  struct rlimit none = {0, 0};
  setrlimit(RLIMIT_CORE, &none); /* crashing kernels are everyday life here */
  setvbuf(stdout, NULL, _IOLBF, 0);
  load(rest + 2);
  signal(SIGTERM, leave);
  signal(SIGINT, leave);
  signal(SIGCHLD, wake);
  int listener = listen_on(rest[0], atoi(rest[1]));
  for (;;) {
    struct pollfd wait[2 + MAX_SESSIONS] = {{listener, POLLIN, 0}, {until_eof ? 0 : -1, POLLIN, 0}};
    for (int i = 0; i < MAX_SESSIONS; ++i) {
      wait[2 + i].fd = sessions[i].pid ? sessions[i].connection : -1;
      wait[2 + i].events = POLLRDHUP;
    }
    int ready = poll(wait, 2 + MAX_SESSIONS, 500);
    if (ready >= 0) end_abandoned(wait + 2);
    reap();
    if (ready <= 0) continue;
    char ignored[64];
    if (wait[1].revents && read(0, ignored, sizeof ignored) <= 0) leave(0);
    if (wait[0].revents) start_session(listener);
  }
}
