"""Two views that count their visits: a plain and an async one."""

from django.http import HttpResponse

from .models import Visit


def count(request):
    """Count this visit."""
    Visit.objects.create(page=request.path)
    return HttpResponse(f"visit {Visit.objects.count()}")


async def count_async(request):
    """Count this visit without blocking the event loop."""
    await Visit.objects.acreate(page=request.path)
    return HttpResponse(f"visit {await Visit.objects.acount()}")
