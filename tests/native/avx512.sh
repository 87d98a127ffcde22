#!/bin/sh
# Runs the self-test of the v4 level on a machine without AVX-512: as the first process of a Linux kernel
# inside bochs, which emulates it. Takes the statically linked self-test and which cases to run (every
# n-th); needs Debian's bochs, isolinux, syslinux-common, xorriso and cpio, and the kernel of
# a linux-image-cloud package (apt-get download; dpkg -x). Bochs has no AVX512_BF16.
#
#     avx512.sh SELFTEST VMLINUZ [60]
set -eu
selftest=$(realpath "$1") kernel=$(realpath "$2") every=${3:-60}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
mkdir -p root/dev iso/isolinux
cp "$selftest" root/init
mknod root/dev/console c 5 1
(cd root && find . | cpio -o -H newc --quiet | gzip) > iso/initrd.gz
cp "$kernel" iso/vmlinuz
cp /usr/lib/ISOLINUX/isolinux.bin /usr/lib/syslinux/modules/bios/ldlinux.c32 iso/isolinux/
# bochs 2.7 misstates the size of the compact form of XSAVE
cat > iso/isolinux/isolinux.cfg <<END
default x
label x
 kernel /vmlinuz
 append initrd=/initrd.gz console=ttyS0 quiet mitigations=off nokaslr noxsaves clearcpuid=xsaves,xsavec lpj=1000000 -- $every
END
xorriso -as mkisofs -quiet -o disc.iso -b isolinux/isolinux.bin -c isolinux/boot.cat \
    -no-emul-boot -boot-load-size 4 -boot-info-table iso 2> /dev/null
cat > bochsrc <<END
display_library: rfb, options="timeout=0"
megs: 512
cpu: model=corei7_skylake_x, count=1, ips=50000000, reset_on_triple_fault=0
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest
ata0-master: type=cdrom, path=disc.iso, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev=serial.txt
log: bochs.log
END
echo c > commands
# When the self-test ends, the kernel panics.
timeout 3600 bochs -q -f bochsrc -rc commands > /dev/null 2>&1 < /dev/null &
bochs=$!
until grep -q "Kernel panic" serial.txt 2> /dev/null || ! kill -0 $bochs 2> /dev/null; do sleep 1; done
kill $bochs 2> /dev/null || true
grep -E "FAILED|trap|vectors|passed" serial.txt || true
grep -q " 0 failed" serial.txt
