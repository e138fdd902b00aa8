"""Other servers' dialects over the same Studio, for clients that speak one already.

What a dialect can say and the Studio cannot do is refused, or named in the answer; it is never passed over in silence
where it would change the picture. A caller that hangs up cancels nothing.
"""

from types import ModuleType

from diffusion_local.web.api.dialects import a1111, cog, openai, replicate

DIALECTS: tuple[ModuleType, ...] = (openai, a1111, cog, replicate)
