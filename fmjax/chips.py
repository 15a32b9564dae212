"""What the makers promise of their chips, by JAX's `device_kind`: the yardstick of MFU."""

# Dense bf16 matmul FLOP/s of one device. Google Cloud's TPU system architecture pages; NVIDIA's data sheets.
PEAK_FLOPS = {
  "TPU v4": 275e12,
  "TPU v5 lite": 197e12,
  "TPU v5e": 197e12,
  "TPU v5": 459e12,
  "TPU v5p": 459e12,
  "TPU v6 lite": 918e12,
  "TPU v6e": 918e12,
  "TPU7x": 1153.5e12,  # a chip has 2,307e12 and is two devices
  "NVIDIA A100-SXM4-40GB": 312e12,
  "NVIDIA A100-SXM4-80GB": 312e12,
  "NVIDIA H100 80GB HBM3": 989.4e12,
  "NVIDIA H200": 989.4e12,
}


def peak_flops(device) -> float | None:
  """FLOP/s of a device, or None where no maker's number is known, as of a CPU."""
  return PEAK_FLOPS.get(device.device_kind)
