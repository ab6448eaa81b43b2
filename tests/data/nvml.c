/* A stand-in for NVIDIA's management library: the functions that Runyard calls, with the real one's signatures and
 * structures (nvml.h), for hosts without a GPU. Two devices; the second lacks most counters, as a MIG device does.
 *
 * FAKE_NVML names a file with one process a line: PID GPU BYTES SM_PERCENT MEMORY_PERCENT. Without it, there are none.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int nvmlReturn_t;
typedef struct device *nvmlDevice_t;
enum { SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, DRIVER_NOT_LOADED = 9 };

typedef struct { unsigned int version; unsigned long long total, reserved, free, used; } nvmlMemory_v2_t;
typedef struct { unsigned long long total, free, used; } nvmlMemory_t;
typedef struct { unsigned int gpu, memory; } nvmlUtilization_t;
typedef struct { unsigned int pid; unsigned long long used; unsigned int gpu_instance, compute_instance; } nvmlProcessInfo_t;
typedef struct { unsigned int pid; unsigned long long at; unsigned int sm, mem, enc, dec; } nvmlProcessUtilizationSample_t;

struct device { unsigned int index; };
static struct device devices[2] = {{0}, {1}};

typedef struct { unsigned int pid, gpu, sm, mem; unsigned long long used; } line_t;
enum { MOST = 64 };

static unsigned int lines(unsigned int gpu, line_t *found) {
  const char *path = getenv("FAKE_NVML");
  FILE *file = path ? fopen(path, "r") : NULL;
  unsigned int count = 0;
  line_t line;
  if (!file) return 0;
  while (count < MOST && fscanf(file, "%u %u %llu %u %u", &line.pid, &line.gpu, &line.used, &line.sm, &line.mem) == 5)
    if (line.gpu == gpu) found[count++] = line;
  fclose(file);
  return count;
}

nvmlReturn_t nvmlInitWithFlags(unsigned int flags) { (void)flags; return getenv("FAKE_NVML_BROKEN") ? DRIVER_NOT_LOADED : SUCCESS; }
nvmlReturn_t nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(nvmlReturn_t code) { (void)code; return "a text"; }
nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *count) { *count = 2; return SUCCESS; }
nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *device) {
  if (index > 1) return INVALID_ARGUMENT;
  *device = &devices[index];
  return SUCCESS;
}
nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *name, unsigned int length) {
  snprintf(name, length, "Fake GPU %u", device->index);
  return SUCCESS;
}
nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *uuid, unsigned int length) {
  snprintf(uuid, length, "GPU-fake-%u", device->index);
  return SUCCESS;
}
nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory) {
  if (device->index == 1) return NOT_SUPPORTED; /* as before driver 510 */
  if (memory->version != (sizeof(nvmlMemory_v2_t) | 2u << 24)) return INVALID_ARGUMENT;
  memory->total = 1000ull << 20, memory->reserved = 100ull << 20, memory->used = 300ull << 20, memory->free = 600ull << 20;
  return SUCCESS;
}
nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory) {
  (void)device;
  memory->total = 2000ull << 20, memory->used = 500ull << 20, memory->free = 1500ull << 20;
  return SUCCESS;
}
nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *rates) {
  if (device->index == 1) return NOT_SUPPORTED;
  rates->gpu = 42, rates->memory = 7;
  return SUCCESS;
}
nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t device, int sensor, unsigned int *degrees) {
  if (device->index == 1 || sensor != 0) return NOT_SUPPORTED;
  *degrees = 55;
  return SUCCESS;
}
nvmlReturn_t nvmlDeviceGetPowerUsage(nvmlDevice_t device, unsigned int *milliwatts) {
  if (device->index == 1) return NOT_SUPPORTED;
  *milliwatts = 70500;
  return SUCCESS;
}
nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t device, unsigned int *count, nvmlProcessInfo_t *infos) {
  line_t found[MOST];
  unsigned int there = lines(device->index, found), room = *count;
  *count = there;
  if (there == 0) return SUCCESS;
  if (room < there) return INSUFFICIENT_SIZE;
  for (unsigned int i = 0; i < there; i++) {
    memset(&infos[i], 0, sizeof infos[i]);
    infos[i].pid = found[i].pid;
    infos[i].used = found[i].used;
  }
  return SUCCESS;
}
nvmlReturn_t nvmlDeviceGetProcessUtilization(nvmlDevice_t device, nvmlProcessUtilizationSample_t *samples,
                                             unsigned int *count, unsigned long long since) {
  line_t found[MOST];
  unsigned int there = lines(device->index, found), room = *count;
  if (device->index == 1) return NOT_SUPPORTED;
  if (there == 0) return NOT_FOUND;
  *count = there;
  if (samples == NULL || room < there) return INSUFFICIENT_SIZE;
  for (unsigned int i = 0; i < there; i++) {
    memset(&samples[i], 0, sizeof samples[i]);
    samples[i].pid = found[i].pid, samples[i].at = since + 1, samples[i].sm = found[i].sm, samples[i].mem = found[i].mem;
  }
  return SUCCESS;
}
