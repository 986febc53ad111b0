/** Version of this package; the same as car-rpc's own. */
export const VERSION = '0.1.0';
