/**
 * Options for tls.connect and http.get: how long each address of a host's name but the last has to connect in, before the next is tried. Node's own half second is over when its
 * process was busy for as long; then nobody would be there who listens on 127.0.0.1 alone where localhost is ::1 as well. On loopback an address answers at once, if only with a
 * refusal, so that a longer wait is never waited out; of any other name the addresses of a network that is down would cost every connection as much.
 */
export function addressAttempts(host: string): { readonly autoSelectFamilyAttemptTimeout?: number } {
  return /^(?:.+\.)?localhost\.?$/i.test(host) ? { autoSelectFamilyAttemptTimeout: 2_500 } : {};
}
