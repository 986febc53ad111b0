// The wire's types for an app in CommonJS.

export type * from './types/src/wire/index.js' with { 'resolution-mode': 'import' };
