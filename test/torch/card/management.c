/* NVML of the same card: what sensors would say. Under the name libnvidia-ml.so.1. */
#include <string.h>

static int device;
int nvmlInit_v2(void) { return 0; }
int nvmlShutdown(void) { return 0; }
int nvmlDeviceGetHandleByPciBusId_v2(const char *bus, void **found) { return *found = &device, 0; }
int nvmlDeviceGetHandleByUUID(const char *uuid, void **found) {
  /* NVML_ERROR_NOT_FOUND unless it is the card's */
  return strcmp(uuid, "GPU-5a5a5a5a-5a5a-5a5a-5a5a-5a5a5a5a5a5a") ? 6 : (*found = &device, 0);
}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **found) { return *found = &device, 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { return *count = 1, 0; }
int nvmlDeviceGetUtilizationRates(void *of, unsigned rates[2]) { return rates[0] = 97, rates[1] = 41, 0; }
int nvmlDeviceGetPowerUsage(void *of, unsigned *milliwatts) { return *milliwatts = 285000, 0; }
int nvmlDeviceGetTemperature(void *of, int sensor, unsigned *celsius) { return *celsius = 64, 0; }
/* NVML_ERROR_NOT_SUPPORTED */
int nvmlDeviceGetNvLinkRemoteDeviceType(void *of, unsigned link, int *type) { return 3; }
int nvmlDeviceGetNvLinkRemotePciInfo_v2(void *of, unsigned link, void *info) { return 3; }
int nvmlDeviceGetComputeRunningProcesses(void *of, unsigned *count, void *processes) { return *count = 0, 0; }
int nvmlDeviceGetGpuFabricInfo(void *of, void *info) { return 3; }
int nvmlDeviceGetGpuFabricInfoV(void *of, void *info) { return 3; }
int nvmlSystemGetCudaDriverVersion_v2(int *version) { return *version = 13020, 0; }
